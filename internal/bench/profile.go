package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profile begins to write a CPU profile of Caddy for the time of a load, which
// pprof can compare with another setup's (-diff_base). The function that it
// returns waits for the profile's end.
func (c *caddy) profile(ctx context.Context, dir, name string, duration time.Duration) (wait func() error) {
	seconds := int(math.Ceil(duration.Seconds()))
	url := fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", c.admin, seconds)
	path := filepath.Join(dir, name+"-"+strings.ReplaceAll(c.setup.name, " ", "-")+".pprof")
	done := make(chan error, 1)
	go func() { done <- fetch(ctx, url, path, duration+patience) }()
	return func() error { return <-done }
}

// fetch writes what is at a URL to a file.
func fetch(ctx context.Context, url, path string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("profiling: status %d", res.StatusCode)
	}
	f, err := os.Create(path) // #nosec G304 -- the user's own folder
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, res.Body); err != nil {
		return err
	}
	return f.Close()
}
