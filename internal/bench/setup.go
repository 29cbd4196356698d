package main

import (
	"fmt"
	"strings"
)

const clientToken = "a-client-token-that-is-worth-nothing"

// setup is a way to run Caddy before the upstream.
type setup struct {
	name string

	// pools and members are how many there are of each; none is plain Caddy.
	// All requests go through the first pool.
	pools, members int

	// next: the directive is without an upstream, and reverse_proxy follows.
	next bool
}

// What is compared.
var (
	plain    = &setup{name: "plain"}
	itself   = &setup{name: "with upstream", pools: 1, members: 2}
	next     = &setup{name: "without upstream", pools: 1, members: 2, next: true}
	variants = []*setup{plain, itself, next}

	manyMembers = &setup{name: "1,000 members", pools: 1, members: 1000}
	manyPools   = &setup{name: "1,000 pools", pools: 1000, members: 2}
)

func poolName(i int) string   { return fmt.Sprintf("pool-%d", i) }
func memberName(i int) string { return fmt.Sprintf("member-%d", i) }

// secret is the credential of a member, the same in each pool.
func secret(member int) string { return "secret-of-" + memberName(member) }

// authorization is what the upstream gets from a member.
func authorization(member int) string { return "Bearer " + secret(member) }

// caddyfile writes the config.
func (s *setup) caddyfile(admin, port, storage, upstream string) string {
	return fmt.Sprintf(`{
	admin %s
	storage file_system %s
	auto_https off
	persist_config off
%s}

http://:%s {
	bind 127.0.0.1
%s
}
`, admin, storage, s.app(), port, s.directive(upstream))
}

func (s *setup) app() string {
	if s.pools == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("\tcredential_pool {\n")
	for i := range s.pools {
		fmt.Fprintf(&b, "\t\tpool %s {\n", poolName(i))
		for k := range s.members {
			fmt.Fprintf(&b, "\t\t\tmember %s\n", memberName(k))
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
	return b.String()
}

// transport keeps as many connections to the upstream as there are clients.
// With Caddy's default of 32 a load of 64 would measure how it connects.
const transport = `
		transport http {
			keepalive_idle_conns_per_host 128
		}`

func (s *setup) directive(upstream string) string {
	pool := fmt.Sprintf("\tcredential_pool %s", poolName(0))
	door := "\n\t\tclient bench " + clientToken
	switch {
	case s.pools == 0:
		return fmt.Sprintf("\treverse_proxy %s {\n\t\theader_up Authorization %q%s\n\t}", upstream, authorization(0), transport)
	case s.next:
		return pool + " {" + door + "\n\t}\n\treverse_proxy " + upstream + " {" + transport + "\n\t}"
	default:
		return pool + " " + upstream + " {" + door + transport + "\n\t}"
	}
}
