package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/dynplane/dynplane/kvevents"
)

// kvParser parses the lines of kv serve.
type kvParser struct {
	ranks     uint32
	blockSize uint32

	converters map[uint32]*kvevents.Converter // of the engine of each rank
}

// kvEngineLine is an event of an engine, in the names of vLLM.
type kvEngineLine struct {
	Type      string   `json:"type"`
	Hashes    []kvHash `json:"block_hashes"`
	Parent    *kvHash  `json:"parent_block_hash"`
	Tokens    []uint32 `json:"token_ids"`
	BlockSize uint32   `json:"block_size"`
	Medium    string   `json:"medium"`
	LoRAName  string   `json:"lora_name"`
	Rank      uint32   `json:"data_parallel_rank"`
}

// kvHash is the hash of a block. Engines send signed and unsigned ones.
type kvHash uint64

// UnmarshalJSON parses an integer of 64 bits.
func (h *kvHash) UnmarshalJSON(text []byte) error {
	if u, err := strconv.ParseUint(string(text), 10, 64); err == nil {
		*h = kvHash(u)
		return nil
	}
	i, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return fmt.Errorf("hash %.64s: want an integer of 64 bits", text)
	}
	*h = kvHash(i)
	return nil
}

// parse returns the events of a line, in Dynamo's form.
func (p *kvParser) parse(text []byte) ([]kvevents.Event, error) {
	var form struct {
		Type *string `json:"type"`
	}
	if text[0] == '{' {
		if err := json.Unmarshal(text, &form); err != nil {
			return nil, fmt.Errorf("want an event in JSON: %w", err)
		}
	}
	var events kvevents.RouterEvents
	if form.Type != nil {
		e, err := p.parseEngine(text)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	} else if err := events.UnmarshalJSON(text); err != nil {
		return nil, fmt.Errorf("want an event with a type, or Dynamo's events: %w", err)
	}
	for i := range events {
		e := &events[i]
		if e.Problem != nil {
			return nil, fmt.Errorf("event %d of %d: %w", i+1, len(events), e.Problem)
		}
		if e.Rank.Value >= p.ranks {
			return nil, fmt.Errorf("event %d of %d: rank %d: want one below --ranks %d", i+1, len(events), e.Rank.Value, p.ranks)
		}
	}
	return events, nil
}

func (p *kvParser) parseEngine(text []byte) (kvevents.Event, error) {
	var l kvEngineLine
	if err := json.Unmarshal(text, &l); err != nil {
		return kvevents.Event{}, fmt.Errorf("want the fields of an engine's event: %w", err)
	}
	e := kvevents.Event{
		Tag: l.Type, Rank: kvevents.Some(l.Rank), Tokens: l.Tokens,
		BlockSize: l.BlockSize, Medium: l.Medium, LoRAName: l.LoRAName,
	}
	for _, h := range l.Hashes {
		e.Hashes = append(e.Hashes, uint64(h))
	}
	if l.Parent != nil {
		e.Parent = kvevents.Some(uint64(*l.Parent))
	}
	switch l.Type {
	case "BlockStored":
		e.Kind = kvevents.Stored
	case "BlockRemoved":
		e.Kind = kvevents.Removed
	case "AllBlocksCleared":
		e.Kind = kvevents.Cleared
	default:
		return e, fmt.Errorf("type %.64q: want BlockStored, BlockRemoved or AllBlocksCleared", l.Type)
	}
	if e.Kind != kvevents.Cleared && len(e.Hashes) == 0 {
		return e, errors.New("block_hashes is missing or empty")
	}
	return p.convert(&e)
}

// convert returns e in Dynamo's form. An event of which a part cannot be expressed is
// an error.
func (p *kvParser) convert(e *kvevents.Event) (kvevents.Event, error) {
	c := p.converters[e.Rank.Value]
	if c == nil {
		c = &kvevents.Converter{BlockSize: p.blockSize}
		if p.converters == nil {
			p.converters = make(map[uint32]*kvevents.Converter)
		}
		p.converters[e.Rank.Value] = c
	}
	before := make(map[kvevents.Loss]uint64)
	for _, l := range kvevents.Losses() {
		before[l] = c.Lost(l)
	}
	out := c.Convert(e)
	for _, l := range kvevents.Losses() {
		if c.Lost(l) > before[l] {
			return kvevents.Event{}, fmt.Errorf("%d blocks cannot be published, because of their %s", max(1, c.Lost(l)-before[l]), l)
		}
	}
	if out == nil {
		return kvevents.Event{}, errors.New("no block can be published")
	}
	return out.Clone(), nil
}
