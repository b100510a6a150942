package kvevents

import "math"

// ForwardPassMetrics is an event of Dynamo's topic forward-pass-metrics, version 1,
// and of the streams of the same name of SGLang and vLLM: the work of one forward
// pass of one rank. It encodes and decodes itself in msgpack and JSON.
type ForwardPassMetrics struct {
	Version   uint32
	WorkerID  string // text, unlike in other events
	Rank      uint32
	Counter   uint64  // number of the pass
	WallTime  float64 // seconds that it took, 0 for a heartbeat
	Scheduled RequestMetrics
	Queued    RequestMetrics // without PrefillKVTokens

	Extra []Field // fields that this package does not define, which are not encoded
}

// RequestMetrics are numbers of the requests that were scheduled or queued. Lengths
// and sums are in tokens.
type RequestMetrics struct {
	PrefillRequests       uint64
	PrefillTokens         uint64 // sum
	PrefillLengthVariance float64
	PrefillKVTokens       uint64 // sum of the tokens that were in the cache
	DecodeRequests        uint64
	DecodeKVTokens        uint64 // sum
	DecodeKVVariance      float64
}

// MarshalMsgpack encodes v.
func (v ForwardPassMetrics) MarshalMsgpack() ([]byte, error) {
	w := writer{}
	w.object(7)
	w.key("version").uint(uint64(v.Version))
	w.key("worker_id").string(v.WorkerID)
	w.key("dp_rank").uint(uint64(v.Rank))
	w.key("counter_id").uint(v.Counter)
	w.key("wall_time").float(v.WallTime)
	w.key("scheduled_requests").requests(&v.Scheduled, true)
	w.key("queued_requests").requests(&v.Queued, false)
	return w.b, nil
}

func (w *writer) requests(m *RequestMetrics, scheduled bool) {
	members := 6
	if scheduled {
		members++
	}
	w.object(members)
	w.key("num_prefill_requests").uint(m.PrefillRequests)
	w.key("sum_prefill_tokens").uint(m.PrefillTokens)
	w.key("var_prefill_length").float(m.PrefillLengthVariance)
	if scheduled {
		w.key("sum_prefill_kv_tokens").uint(m.PrefillKVTokens)
	}
	w.key("num_decode_requests").uint(m.DecodeRequests)
	w.key("sum_decode_kv_tokens").uint(m.DecodeKVTokens)
	w.key("var_decode_kv_tokens").float(m.DecodeKVVariance)
}

// UnmarshalMsgpack decodes v, from msgpack or JSON. The error is a *[DecodeError].
func (v *ForwardPassMetrics) UnmarshalMsgpack(data []byte) error {
	*v = ForwardPassMetrics{}
	return decodeMap(data, v.member, func(d *Decoder) {
		d.missing(seenWorker, "worker_id")
		d.missing(seenID, "counter_id")
		v.Extra = cloneFields(d.ev.Extra)
	})
}

func (v *ForwardPassMetrics) member(d *Decoder, name string) {
	switch name {
	case "version":
		v.Version = d.optionalUint32(name).Value
	case "worker_id":
		d.seen |= seenWorker
		v.WorkerID = d.string(name)
	case "dp_rank":
		v.Rank = d.optionalUint32(name).Value
	case "counter_id":
		d.seen |= seenID
		v.Counter, _ = d.uint(name, math.MaxUint64)
	case "wall_time":
		v.WallTime = d.float(name)
	case "scheduled_requests":
		d.eachMember(name, v.Scheduled.member("scheduled_requests."))
	case "queued_requests":
		d.eachMember(name, v.Queued.member("queued_requests."))
	default:
		d.extra(name)
	}
}

// member decodes a member of m. Those that are not defined get a prefix.
func (m *RequestMetrics) member(prefix string) func(*Decoder, string) {
	return func(d *Decoder, name string) {
		switch name {
		case "num_prefill_requests":
			m.PrefillRequests, _ = d.uint(name, math.MaxUint64)
		case "sum_prefill_tokens":
			m.PrefillTokens, _ = d.uint(name, math.MaxUint64)
		case "var_prefill_length":
			m.PrefillLengthVariance = d.float(name)
		case "sum_prefill_kv_tokens":
			m.PrefillKVTokens, _ = d.uint(name, math.MaxUint64)
		case "num_decode_requests":
			m.DecodeRequests, _ = d.uint(name, math.MaxUint64)
		case "sum_decode_kv_tokens":
			m.DecodeKVTokens, _ = d.uint(name, math.MaxUint64)
		case "var_decode_kv_tokens":
			m.DecodeKVVariance = d.float(name)
		default:
			d.extra(prefix + name)
		}
	}
}

// float reads a number.
func (d *Decoder) float(name string) float64 {
	v, ok := d.r.float()
	if !ok {
		d.failSkip(name, "a number")
	}
	return v
}

// MarshalJSON encodes v. NaN and the infinities become null.
func (v ForwardPassMetrics) MarshalJSON() ([]byte, error) { return marshalJSON(v.MarshalMsgpack()) }

// UnmarshalJSON decodes v.
func (v *ForwardPassMetrics) UnmarshalJSON(data []byte) error { return v.UnmarshalMsgpack(data) }
