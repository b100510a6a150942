package kvstate

import (
	"container/heap"
	"time"
)

// schedule orders ranks by the time at which they are due. It implements
// heap.Interface.
type schedule []*rankState

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due.Before(s[j].due) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = i+1, j+1
}

// Push implements heap.Interface.
func (s *schedule) Push(x any) {
	r := x.(*rankState)
	*s = append(*s, r)
	r.place = len(*s)
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	r := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	r.place = 0
	return r
}

// set makes r due at a time, in place of an earlier setting.
func (s *schedule) set(r *rankState, due time.Time) {
	r.due = due
	if r.place > 0 {
		heap.Fix(s, r.place-1)
	} else {
		heap.Push(s, r)
	}
}

// remove makes r never due.
func (s *schedule) remove(r *rankState) {
	if r.place > 0 {
		heap.Remove(s, r.place-1)
	}
}
