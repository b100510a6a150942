//go:build cgo && !nozmq

package main

import "testing"

func TestDemoZMQ(t *testing.T) { tryDemo(t, "zmq") }

func TestDemoBroker(t *testing.T) { tryDemo(t, "broker") }
