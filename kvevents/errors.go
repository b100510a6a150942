package kvevents

import "fmt"

// Reason is the class of a [DecodeError], for counters.
type Reason uint8

// The reasons.
const (
	ReasonTooLarge  Reason = iota + 1 // the payload is larger than Decoder.MaxBytes
	ReasonTruncated                   // a length or count goes beyond the end of the input
	ReasonTrailing                    // bytes follow the value
	ReasonSyntax                      // no msgpack, or no JSON
	ReasonShape                       // well formed, but not the expected form
	ReasonDepth                       // nested too deeply
	ReasonMissing                     // a required field is missing
	ReasonType                        // a field has a type that it must not have
	ReasonRange                       // a number is out of its range
	ReasonTooMany                     // an event has too many fields
)

// String returns a short name of r, for labels.
func (r Reason) String() string {
	names := [...]string{"", "too_large", "truncated", "trailing", "syntax", "shape", "depth", "missing", "type", "range", "too_many"}
	if int(r) < len(names) && r > 0 {
		return names[r]
	}
	return "other"
}

// DecodeError reports a payload that cannot be decoded, or an event in it that is
// invalid.
type DecodeError struct {
	Reason Reason
	Field  string // field in which the problem is, or empty
	Offset int    // offset of the problem in bytes, from 0
	Want   string // the expectation
}

// Error implements error.
func (e *DecodeError) Error() string {
	where := fmt.Sprintf("byte %d", e.Offset)
	if e.Field != "" {
		where = fmt.Sprintf("field %.64q at byte %d", e.Field, e.Offset)
	}
	return fmt.Sprintf("kvevents: decode: %s: %s: want %s", where, e.Reason, e.Want)
}
