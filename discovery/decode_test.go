package discovery

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// unusualInstances are valid and invalid, in the forms where a scanner and
// encoding/json are most likely to differ.
var unusualInstances = []string{
	``, ` `, `null`, `5`, `[]`, `"x"`, `{`, `{}`, `{"type":"Endpoint"`, "\x00", "\xef\xbb\xbf{}",
	`{"type":"Endpoint","type":"Model","instance_id":1}`,
	`{"TYPE":"Model","type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"Instance_ID":2,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"},"tranſport":5}`,
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":1,"model_ſuffix":"s"}`,
	`{"type":"Endpoint","instance_id":1,"n\u0061mespace":"z","namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"\u00e9\ud800","component":"b\/","endpoint":"c","transport":{"tcp":"x"}}`,
	"{\"type\":\"Endpoint\",\"instance_id\":1,\"namespace\":\"a\xff\",\"component\":\"b\",\"endpoint\":\"c\",\"transport\":{\"tcp\":\"x\"}}",
	"{\"type\":\"Model\",\"instance_id\":1,\"namespace\":\"a\",\"component\":\"b\",\"endpoint\":\"c\",\"card_json\":\"\xff\",\"\xff\":1}",
	"{\"type\":\"Model\",\"instance_id\":1,\"namespace\":\"a\",\"component\":\"b\",\"endpoint\":\"c\",\"card_json\":\"a\tb\"}",
	`{"type":"Endpoint","instance_id":1,"namespace":null,"component":"b","endpoint":"c","transport":{"tcp":"x"},"device_type":null}`,
	`{"type":"Endpoint","instance_id":1,"namespace":5,"component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":null,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"publisher_id":"x","namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"publisher_id":null,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"topic":[],"scope":7,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1e0,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":01,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":-0,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":18446744073709551616,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":null}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":5}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"TCP":"x"}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x","tcp":"y"}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x","other":1}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{}}`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"}} x`,
	`{"type":"Endpoint","instance_id":1,"namespace":"a","component":"b","endpoint":"c","transport":{"tcp":"x"},}`,
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":null}`,
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":[1,-0.5e+7,true,false,null,"\"\\\/\b\f\n\r\t\u12aB"]}`,
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":"\u12x4"}`,
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":1.}`,
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":truth}`,
	`{"type":"EventChannel","instance_id":1,"scope":{"kind":"endpoint"},"topic":"t","transport":{"kind":"Zmq","config":{"endpoint":"x"}}}`,
	`{"type":"EventChannel","instance_id":1,"scope":{"kind":"namespace","name":"n","component":7},"topic":"t","transport":{"kind":"Zmq","config":{"endpoint":"x"}}}`,
	`{"type":"EventChannel","instance_id":1,"scope":{"kind":"namespace","name":"n","endpoint":{}},"topic":"t","transport":{"kind":"Zmq","config":{"endpoint":"x"}}}`,
	`{"type":"EventChannel","instance_id":1,"scope":{"Kind":"namespace","name":"n"},"topic":"t","transport":{"kind":"Zmq","config":{"endpoint":"x"}}}`,
	`{"type":"EventChannel","instance_id":1,"namespace":"n","topic":"t","transport":{"kind":"Zmq","config":null}}`,
	`{"type":"EventChannel","instance_id":1,"namespace":"n","topic":"t","transport":{"kind":"Zmq"}}`,
	`{"type":"EventChannel","instance_id":1,"namespace":"n","topic":"t","transport":{"kind":"Zmq","config":{"Endpoint":"x"}}}`,
	`{"type":"EventChannel","instance_id":1,"namespace":"n","topic":"t","transport":{"kind":"Zmq","kind":"Nats","config":{"endpoint":"x"}}}`,
	`{"type":"EventChannel","instance_id":1,"namespace":"n","topic":"t","transport":{"kind":5,"config":{"endpoint":"x"}}}`,
	`{"type":"EventSource","publisher_id":1,"scope":{"kind":"namespace","name":"n"},"topic":"t","metadata":null}`,
	`{"type":"EventSource","publisher_id":1,"scope":null,"topic":"t","metadata":{}}`,
	`{"type":"EventSource","instance_id":1,"scope":{"kind":"namespace","name":"n"},"topic":"t","metadata":{}}`,
	`{"type":"EventSource","instance_id":[],"publisher_id":1,"scope":{"kind":"namespace","name":"n"},"topic":"t","metadata":{}}`,
	`{"type":"Endpoint","x":` + strings.Repeat("[", 100_000),
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":` + strings.Repeat("[", 9_990) + strings.Repeat("]", 9_990) + `}`,
	`{"type":"Model","instance_id":1,"namespace":"a","component":"b","endpoint":"c","card_json":` + strings.Repeat(`{"a":`, 10_001) + "1" + strings.Repeat("}", 10_001) + `}`,
}

// usualInstances have the forms that the writers of this package and of Dynamo
// use.
func usualInstances(tb testing.TB) []string {
	tb.Helper()
	var out []string
	for _, c := range someInstances {
		if e, ok := c.want.Spec.(Endpoint); !ok || e.Transport.Raw == nil {
			out = append(out, c.json)
		}
	}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no testdata: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, string(data))
	}
	return append(out,
		`{"type":"EventSource","scope":{"kind":"endpoint","endpoint":{"namespace":"n","component":"c","name":"e"}},"topic":"kv-events","publisher_id":7,"metadata":{"worker":{"worker_id":3}}}`,
		"\n{ \"later\" : [ 1 , { } , [ ] , -0.1E-2 , \"\\u00e9é\" ],\t\"type\":\"Model\", \"namespace\":\"é\", \"component\":\"c\", \"endpoint\":\"e\", \"instance_id\":0, \"card_json\":{}, \"model_suffix\":null }\r\n",
	)
}

// expectSame fails if decodeInstance and encoding/json differ in the instance or
// in the text of the error.
func expectSame(t *testing.T, data []byte) {
	t.Helper()
	got, err := decodeInstance(data)
	want, wantErr := decodeAny(data)
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() || !reflect.DeepEqual(got, want) {
		t.Fatalf("%.300q\nis decoded as %+v, %v\nwant          %+v, %v", data, got, err, want, wantErr)
	}
}

func TestDecodeIsThatOfEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, data := range unusualInstances {
		expectSame(t, []byte(data))
	}
	for _, data := range usualInstances(t) {
		expectSame(t, []byte(data))
		if _, ok := decodePlain([]byte(data)); !ok {
			t.Errorf("%s is not decoded in one pass", data)
		}
	}
}

// Each byte of every form is removed, replaced and doubled in turn, and fields
// are moved between instances.
func TestDecodeOfDamagedInstances(t *testing.T) {
	t.Parallel()
	forms := usualInstances(t)
	for _, form := range unusualInstances {
		if len(form) < 1000 {
			forms = append(forms, form)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	const bytesToTry = "\"\\{}[]:,0-1e.ntu \x00\x1f\x7f\xc3\xff\n"
	for _, form := range forms {
		for at := range len(form) {
			expectSame(t, []byte(form[:at]+form[at+1:]))
			expectSame(t, []byte(form[:at]+form[at:at+1]+form[at:]))
			expectSame(t, []byte(form[:at]+string(bytesToTry[random.IntN(len(bytesToTry))])+form[at+1:]))
		}
		for range 20 {
			a, b := strings.Split(form, ","), strings.Split(forms[random.IntN(len(forms))], ",")
			a[random.IntN(len(a))] = b[random.IntN(len(b))]
			expectSame(t, []byte(strings.Join(a, ",")))
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, data := range append(usualInstances(f), unusualInstances...) {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) { expectSame(t, data) })
}

func TestUnmarshalCopies(t *testing.T) {
	t.Parallel()
	for _, form := range usualInstances(t) {
		data := []byte(form)
		var in Instance
		if err := in.UnmarshalJSON(data); err != nil {
			t.Fatal(err)
		}
		clear(data)
		if string(in.Raw) != form {
			t.Errorf("%s changes with the bytes that it was parsed from: %s", form, in.Raw)
		}
		again, err := decodeInstance(bytes.Clone(in.Raw))
		if err != nil || !reflect.DeepEqual(in, again) {
			t.Errorf("%s: %+v, want %+v, %v", form, in, again, err)
		}
	}
}

func TestDecodeAllocates(t *testing.T) {
	data := []byte(someInstances[0].json)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := decodeInstance(data); err != nil {
			t.Error(err)
		}
	}); n > 12 {
		t.Errorf("%v allocations, want at most 12", n)
	}
}
