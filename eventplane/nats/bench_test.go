package nats_test

import (
	"testing"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/eventplane/drivertest"
	natsdriver "github.com/dynplane/dynplane/eventplane/nats"
	"github.com/dynplane/dynplane/integration/natstest"
)

func BenchmarkPublish(b *testing.B) {
	pub := natsdriver.NewPublisher(dial(b, natstest.Run(b)))
	m := driver.Message{Subject: "events", Body: make([]byte, 256)}
	b.ReportAllocs()
	for b.Loop() {
		must(b, pub.Publish(b.Context(), &m))
	}
}

// BenchmarkReplay requests the events of a history, two slices at a time.
func BenchmarkReplay(b *testing.B) {
	srv := natstest.Run(b)
	pub := natsdriver.NewPublisher(dial(b, srv))
	r := drivertest.Serve(b, pub, drivertest.NewHistory(0, b.N, 256))
	drivertest.BenchmarkReplay(b, subscribe(b, dial(b, srv), "events"), r)
	must(b, pub.Close())
}
