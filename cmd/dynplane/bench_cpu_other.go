//go:build !linux && !darwin

package main

// cpuSeconds returns 0, which means unknown.
func cpuSeconds() float64 { return 0 }
