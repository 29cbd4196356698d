//go:build race

package classify_test

// slowdown is what the race detector makes of the time that code takes.
const slowdown = 20
