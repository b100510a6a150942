package natstest

import "go.uber.org/goleak"

// IgnoreServer excludes a goroutine of the embedded server from goleak: one that
// waits for the consumer of a sourced stream, such as a bucket, outlives the server
// for up to half a minute if that is stopped meanwhile.
func IgnoreServer() goleak.Option {
	return goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*stream).trySetupSourceConsumer.func3")
}
