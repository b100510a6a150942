package kvevents

import (
	"math"
	"strconv"
)

// Form is the form of a payload on an engine's sockets.
type Form uint8

// The forms.
const (
	FormUnknown     Form = iota
	FormBatch            // events, for Decoder.Engine
	FormLoad             // a LoadStat
	FormForwardPass      // ForwardPassMetrics
)

// FormOf returns the form of an engine's payload by its shape.
func FormOf(payload []byte) Form {
	if scanAll(payload) != nil {
		return FormUnknown
	}
	r := reader{data: payload}
	if n, ok := r.array(); ok {
		return r.arrayForm(n)
	}
	n, _ := r.object()
	for range n {
		key, ok := r.bytes(kindStr)
		switch string(key) {
		case "events", "event_type", "type":
			return FormBatch
		case "scheduled_requests", "queued_requests":
			return FormForwardPass
		}
		if !ok {
			r.skip()
		}
		r.skip()
	}
	return FormUnknown
}

// arrayForm returns the form of an array of n elements, of which the first is next.
func (r *reader) arrayForm(n int) Form {
	if n < 2 {
		return FormUnknown
	}
	if tag, ok := r.bytes(kindStr); ok {
		if string(tag) == loadStatTag {
			return FormLoad
		}
		return FormUnknown
	}
	r.skip()
	if r.kind() == kindArray {
		return FormBatch
	}
	return FormUnknown
}

// Engine begins with the payload of an engine's message and returns the header of
// the batch. The events follow from [Decoder.Events]. All forms of vLLM, SGLang,
// TokenSpeed, TensorRT-LLM and Mooncake are accepted; see the package comment.
//
// The error is a *[DecodeError]. It concerns the payload as a whole, which then has
// no events.
func (d *Decoder) Engine(payload []byte) (Batch, error) {
	if err := d.checkSize(payload); err != nil {
		return Batch{}, err
	}
	d.start(payload, (*Decoder).engineEvent)
	d.problem = DecodeError{}
	events, err := d.engineBatch()
	if err == nil && d.r.pos != len(payload) {
		err = &DecodeError{Reason: ReasonTrailing, Offset: d.r.pos, Want: "no bytes after the batch"}
	}
	if err != nil {
		d.left = 0
		return Batch{}, err
	}
	d.left = d.batch.Len
	d.r.pos = events
	return d.batch, nil
}

// engineBatch reads the batch up to its end and returns where its first event
// begins. Each element is scanned once.
func (d *Decoder) engineBatch() (events int, err error) {
	r := &d.r
	if len(r.data) == 0 {
		return 0, &DecodeError{Reason: ReasonTruncated, Want: "a batch"}
	}
	k := r.kind()
	if k != kindArray && k != kindMap {
		return 0, &DecodeError{Reason: ReasonShape, Want: "an array or a map"}
	}
	body, n, ok := length(r.data, 0)
	if !ok || n > len(r.data)-body {
		return 0, &DecodeError{Reason: ReasonTruncated, Want: "a length within the input"}
	}
	r.pos = body
	events = -1
	single := false
	for i := range n {
		name, end := "", 0
		switch {
		case k == kindMap:
			if name, err = d.key(); err != nil {
				return 0, err
			}
		case i < 3:
			name = [...]string{"ts", "events", "data_parallel_rank"}[i]
		default:
			name = strconv.Itoa(i)
		}
		begin := r.pos
		if end, err = scan(r.data, begin); err != nil {
			return 0, err
		}
		single = single || k == kindMap && (name == "event_type" || name == "type")
		d.batchField(name, begin, &events)
		r.pos = end
	}
	if events < 0 && single {
		d.batch = Batch{Len: 1, Extra: d.batch.Extra[:0]}
		return 0, nil // the whole payload
	}
	if events < 0 {
		return 0, &DecodeError{Reason: ReasonShape, Want: "a batch of events"}
	}
	return events, nil
}

// key reads a key of the batch, which has not been scanned.
func (d *Decoder) key() (string, error) {
	end, err := scan(d.r.data, d.r.pos)
	if err != nil {
		return "", err
	}
	name, ok := d.r.bytes(kindStr)
	if !ok {
		d.r.pos = end
	}
	return d.str(name), nil
}

// batchField reads a field of the batch, which begins at begin.
func (d *Decoder) batchField(name string, begin int, events *int) {
	b, r := &d.batch, &d.r
	switch name {
	case "ts":
		if v, ok := r.float(); ok {
			b.Time = v
			return
		}
	case "events":
		if n, ok := r.array(); ok {
			b.Len, *events = n, r.pos
			return
		}
	case "data_parallel_rank", "dp_rank", "attn_dp_rank":
		if v, ok := r.uint(); ok && v <= math.MaxUint32 {
			b.Rank = Some(uint32(v))
			return
		}
		r.pos = begin
	}
	if !r.nil() && len(b.Extra) < maxExtra {
		b.Extra = d.appendField(b.Extra, name)
	}
}
