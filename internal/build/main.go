// Command build builds Caddy with this plugin, as xcaddy.json at the root of
// the repository says. That file is the JSON of xcaddy's own Builder, which
// xcaddy's command line cannot read. From the root:
//
//	go -C internal/build run .
//
// leaves the binary at ./caddy. The program has a module of its own, so that
// xcaddy is no dependency of the plugin.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/caddyserver/xcaddy"
)

func main() {
	config := flag.String("config", "../../xcaddy.json", "the build, in the JSON of xcaddy's Builder; paths in it are relative to its own folder")
	output := flag.String("output", "", "where the binary goes (default: caddy, beside the config)")
	race := flag.Bool("race", false, "build with Go's race detector")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument: %s", flag.Arg(0))
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := build(ctx, *config, *output, *race); err != nil {
		stop()
		log.Fatal(err)
	}
}

// build builds the Caddy that the file config describes. An empty output means
// a file named caddy beside config.
func build(ctx context.Context, config, output string, race bool) error {
	builder, err := readBuilder(config)
	if err != nil {
		return err
	}
	if output == "" {
		output = filepath.Join(filepath.Dir(config), "caddy")
	}
	if race {
		builder.RaceDetector = true
		// Without -trimpath, which xcaddy adds only if there are no flags, the
		// packages compiled here and for "go test -race" are the same in Go's
		// cache. The tags are xcaddy's own.
		builder.BuildFlags = "-tags=nobadger,nomysql,nopgx"
	}
	return builder.Build(ctx, output)
}

// readBuilder reads a Builder from the file at path and makes the local
// replacements in it absolute, because xcaddy builds in a temporary folder.
func readBuilder(path string) (xcaddy.Builder, error) {
	var builder xcaddy.Builder
	content, err := os.ReadFile(path)
	if err != nil {
		return builder, fmt.Errorf("reading the build: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&builder); err != nil {
		return builder, fmt.Errorf("reading the build from %s: %w", path, err)
	}
	root, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return builder, fmt.Errorf("finding the folder of %s: %w", path, err)
	}
	for i, replacement := range builder.Replacements {
		// As in go.mod, a target that starts with a dot is a folder.
		if target := replacement.New.String(); strings.HasPrefix(target, ".") {
			builder.Replacements[i].New = xcaddy.ReplacementPath(filepath.Join(root, target))
		}
	}
	return builder, nil
}
