package caddymodule

import (
	"fmt"
	"net/netip"
	"strings"
)

// hostPattern is a host to which credentials may go: a name, the end of one with
// its dot, or addresses.
type hostPattern struct {
	name   string
	suffix string
	prefix netip.Prefix
}

// parseHosts reads the patterns of a config.
func parseHosts(hosts []string) ([]hostPattern, error) {
	patterns := make([]hostPattern, len(hosts))
	for i, host := range hosts {
		low := strings.ToLower(host)
		suffix, wild := strings.CutPrefix(low, "*.")
		prefix, prefixErr := netip.ParsePrefix(low)
		addr, addrErr := netip.ParseAddr(strings.Trim(low, "[]"))
		switch {
		case prefixErr == nil:
			patterns[i].prefix = prefix.Masked()
		case addrErr == nil:
			patterns[i].prefix = netip.PrefixFrom(addr, addr.BitLen())
		case low == "" || strings.ContainsAny(suffix, "*{}/:@ \t"):
			return nil, fmt.Errorf("hosts: %q is neither a host name, *. and the end of one, an IP address, nor a CIDR range; it has no scheme and no port", printable(host))
		case wild:
			patterns[i].suffix = "." + suffix
		default:
			patterns[i].name = low
		}
	}
	return patterns, nil
}

// matches reports whether the host that is dialled is one of the pattern's.
func (p hostPattern) matches(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if p.prefix.IsValid() {
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		return err == nil && p.prefix.Contains(addr.Unmap())
	}
	return (p.name != "" && host == p.name) || (p.suffix != "" && strings.HasSuffix(host, p.suffix))
}
