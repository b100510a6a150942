package kvevents

import "slices"

// maxMedia is the number of blocks in one list of multimodal objects. A nil takes a
// single byte of input.
const maxMedia = 1 << 18

// media reads the list of multimodal objects of all blocks, as TensorRT-LLM sends it.
func (d *Decoder) media() bool {
	n, ok := d.r.array()
	if !ok || n > maxMedia {
		return false
	}
	media := slices.Grow(d.ev.Media[:0], n)
	for range n {
		var objects []MediaObject
		if !d.r.nil() {
			if objects, ok = d.mediaObjects(); !ok {
				return false
			}
		}
		media = append(media, objects)
	}
	d.ev.Media = media
	return true
}

// mediaObjects reads the objects of one block. If it fails, pos is where it began.
func (d *Decoder) mediaObjects() (objects []MediaObject, ok bool) {
	r := &d.r
	begin := r.pos
	defer func() {
		if !ok {
			r.pos = begin
		}
	}()
	members, ok := r.object()
	if !ok {
		return nil, false
	}
	for range members {
		if name, _ := r.bytes(kindStr); string(name) != "mm_objects" {
			if name == nil {
				r.skip()
			}
			d.keep("")
			continue
		}
		n, ok := r.array()
		if !ok {
			return nil, false
		}
		objects = make([]MediaObject, 0, min(n, 8)) // not nil: it is there
		for range n {
			o, ok := r.mediaObject()
			if !ok {
				return nil, false
			}
			objects = append(objects, o)
		}
	}
	return objects, true
}

// mediaObject reads an object, which must have a hash.
func (r *reader) mediaObject() (o MediaObject, ok bool) {
	members, _ := r.object()
	for range members {
		name, isStr := r.bytes(kindStr)
		if !isStr {
			r.skip()
		}
		switch string(name) {
		case "mm_hash":
			if o.Hash, _, ok = r.int(); !ok {
				return o, false
			}
		case "offsets":
			if !r.offsets(&o) {
				return o, false
			}
		default:
			if _, reason := r.raw(); reason != 0 {
				return o, false
			}
		}
	}
	return o, ok
}

func (r *reader) offsets(o *MediaObject) bool {
	n, ok := r.array()
	if !ok {
		return false
	}
	o.Offsets = make([][2]uint64, 0, min(n, 8))
	for range n {
		size, ok := r.array()
		if !ok || size != 2 {
			return false
		}
		begin, okBegin := r.uint()
		end, okEnd := r.uint()
		if !okBegin || !okEnd {
			return false
		}
		o.Offsets = append(o.Offsets, [2]uint64{begin, end})
	}
	return true
}
