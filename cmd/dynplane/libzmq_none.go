//go:build !cgo || nozmq

package main

func libzmqVersion() string { return "none (built without it)" }
