package kvevents

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
)

// The load and metrics that SGLang sent decode to what msgspec decodes them to.
func TestMetricsFrames(t *testing.T) {
	t.Parallel()
	loads, passes := 0, 0
	for _, f := range engineFrames(t) {
		switch FormOf(f.payload) {
		case FormLoad:
			loads++
			var v LoadStat
			if err := v.UnmarshalMsgpack(f.payload); err != nil {
				t.Errorf("%s: %v", f.name, err)
			}
			got := fmt.Sprint("[LoadStat ", v.RunningRequests, v.WaitingRequests, v.Tokens, v.MaxTokens, v.Rank)
			for _, o := range []Optional[int64]{v.WaitingUncachedTokens, v.TotalTokens, v.MaxRunningRequests, v.PrefillUncachedTokens, v.PrefillBusyMicros} {
				if o.Present {
					got += fmt.Sprint(" ", o.Value)
				}
			}
			if want := fmt.Sprint(fromJSON(t, f.json)); got+"]" != want {
				t.Errorf("%s: got %s], want %s", f.name, got, want)
			}
		case FormForwardPass:
			passes++
			var v ForwardPassMetrics
			if err := codec.Msgpack.Unmarshal(f.payload, &v); err != nil || len(v.Extra) != 0 {
				t.Errorf("%s: %v, %+v", f.name, err, v)
			}
			wire, err := codec.Msgpack.Append(nil, v)
			if err != nil || !bytes.Equal(wire, f.payload) {
				t.Errorf("%s: error %v, encoded\n%q, want\n%q", f.name, err, wire, f.payload)
			}
			text, err := codec.JSON.Append(nil, v)
			if want := strings.ReplaceAll(f.json, "0.0,", "0,"); err != nil || string(text) != strings.ReplaceAll(want, "0.0}", "0}") {
				t.Errorf("%s: error %v, got\n%s, want\n%s", f.name, err, text, f.json)
			}
			var back ForwardPassMetrics
			if err := codec.JSON.Unmarshal([]byte(f.json), &back); err != nil || !reflect.DeepEqual(back, v) {
				t.Errorf("%s: error %v, got %+v, want %+v", f.name, err, back, v)
			}
		}
	}
	if loads != 8 || passes != 2 {
		t.Errorf("%d loads and %d passes, want 8 and 2", loads, passes)
	}
}

func TestMetricsExtra(t *testing.T) {
	t.Parallel()
	var load ActiveLoad
	if err := load.UnmarshalMsgpack(pack(object{"worker_id", 5, "later", list{1}})); err != nil || load.Worker != 5 || fmt.Sprintf("%x", load.Extra) != `[{6c61746572 9101}]` {
		t.Errorf("%v, %+v", err, load)
	}
	var pass ForwardPassMetrics
	if err := pass.UnmarshalMsgpack(pack(object{"worker_id", "w", "counter_id", 1, "queued_requests", object{"later", 1, "sum_prefill_tokens", 7}})); err != nil ||
		pass.Queued.PrefillTokens != 7 || pass.Extra[0].Name != "queued_requests.later" {
		t.Errorf("%v, %+v", err, pass)
	}
	var stat LoadStat
	if err := stat.UnmarshalMsgpack(pack(list{"LoadStat", 1, 2, 3, 4, 5, nil, 7, 8, 9, 10, "later"})); err != nil || stat.WaitingUncachedTokens.Present ||
		stat.TotalTokens != Some(int64(7)) || stat.Extra[0].Name != "11" {
		t.Errorf("%v, %+v", err, stat)
	}
	var sequences ActiveSequences
	if err := sequences.UnmarshalMsgpack(pack(object{"request_id", "r", "worker", object{"worker_id", 1}, "data", object{"Grown", 5}, "router_id", 2})); err != nil ||
		sequences[0].Kind != SequenceUnknown || sequences[0].Tag != "Grown" || sequences[0].Problem != nil {
		t.Errorf("%v, %+v", err, sequences)
	}
}

func TestMetricsErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		into    interface{ UnmarshalMsgpack([]byte) error }
		payload any
		want    Reason
	}{
		"load without a worker":   {&ActiveLoad{}, object{}, ReasonMissing},
		"load is a list":          {&ActiveLoad{}, list{}, ReasonType},
		"load negative":           {&ActiveLoad{}, object{"worker_id", 1, "kv_used_blocks", -1}, ReasonRange},
		"load, worker text":       {&ActiveLoad{}, object{"worker_id", "x"}, ReasonType},
		"pass without a counter":  {&ForwardPassMetrics{}, object{"worker_id", "w"}, ReasonMissing},
		"pass, worker an integer": {&ForwardPassMetrics{}, object{"worker_id", 5, "counter_id", 1}, ReasonRange},
		"pass, text for a number": {&ForwardPassMetrics{}, object{"worker_id", "w", "counter_id", 1, "wall_time", "x"}, ReasonType},
		"pass, requests nil":      {&ForwardPassMetrics{}, object{"worker_id", "w", "counter_id", 1, "queued_requests", nil}, ReasonType},
		"stat of 5":               {&LoadStat{}, list{"LoadStat", 1, 2, 3, 4}, ReasonShape},
		"stat of another tag":     {&LoadStat{}, list{"Load", 1, 2, 3, 4, 5}, ReasonShape},
		"stat with text":          {&LoadStat{}, list{"LoadStat", 1, "x", 3, 4, 5}, ReasonType},
		"sequences are a list":    {&ActiveSequences{}, list{}, ReasonShape},
	} {
		if err := c.into.UnmarshalMsgpack(pack(c.payload)); reasonOf(err) != c.want {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

func TestInvalidSequences(t *testing.T) {
	t.Parallel()
	event := func(data any) object {
		return object{"request_id", "r", "worker", object{"worker_id", 1, "dp_rank", 2}, "data", data, "router_id", 3}
	}
	add := func(members ...any) object { return event(object{"AddRequest", object(members)}) }
	for name, c := range map[string]struct {
		event any
		want  Reason
	}{
		"nil":                {nil, ReasonType},
		"no request":         {object{"worker", object{"worker_id", 1}, "data", "Free"}, ReasonMissing},
		"no worker":          {object{"request_id", "r", "data", "Free"}, ReasonMissing},
		"no data":            {object{"request_id", "r", "worker", object{}}, ReasonMissing},
		"data nil":           {event(nil), ReasonType},
		"data empty":         {event(object{}), ReasonType},
		"add without a map":  {event("AddRequest"), ReasonMissing},
		"hash text is a map": {add("token_sequence", list{object{}}), ReasonType},
		"track is a number":  {add("track_prefill_tokens", 1), ReasonRange},
		"secs negative":      {add("prefill_load_hint", object{"expected_prefill_duration", object{"secs", -1}}), ReasonRange},
		"nanos too many":     {add("prefill_load_hint", object{"expected_prefill_duration", object{"nanos", 1_000_000_000}}), ReasonRange},
	} {
		var got ActiveSequences
		if err := got.UnmarshalMsgpack(pack(object{"events", list{event("Free"), c.event, event("Free")}})); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(got) != 3 || got[0].Kind != SequenceFreed || got[2].Kind != SequenceFreed || got[2].Rank != 2 || got[2].Router != 3 {
			t.Errorf("%s: got %+v", name, got)
			continue
		}
		if got[1].Kind != SequenceUnknown || got[1].Problem == nil || got[1].Problem.Reason != c.want || string(got[1].Raw) != string(pack(c.event)) {
			t.Errorf("%s: got %+v, %v", name, got[1], got[1].Problem)
		}
	}
	long := ActiveSequence{Kind: SequenceAdded, PrefillTokens: Some(uint64(1)), PrefillDuration: Some(time.Duration(1<<63 - 1))}
	wire, err := json.Marshal(ActiveSequences{long})
	var back ActiveSequences
	if err != nil || json.Unmarshal(wire, &back) != nil || back[0].PrefillDuration != long.PrefillDuration {
		t.Errorf("%v, %s, %+v", err, wire, back)
	}
}
