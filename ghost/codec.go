package ghost

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A FormatError says that bytes are not an encoding that this package makes.
type FormatError struct {
	What   string // what the bytes were to be: "Ghost file", "request", "receipt"
	Offset int    // where the fault was noticed
	Reason string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s, offset %d: %s", e.What, e.Offset, e.Reason)
}

// codec writes values to b or reads them from it, so that the order of an
// encoding stands in one place for both. After the first fault a reader
// gives zeros.
type codec struct {
	what    string
	reading bool
	b       []byte
	at      int
	err     error
	marks   []mark // where sections begin, if wanted
	marked  bool
}

// mark is the beginning of a section.
type mark struct {
	part Part
	at   int
}

// section begins a section of the encoding.
func (c *codec) section(kind PartKind, layer, index int) {
	if c.marked && c.err == nil {
		at := len(c.b)
		if c.reading {
			at = c.at
		}
		c.marks = append(c.marks, mark{Part{kind, layer, index}, at})
	}
}

func (c *codec) fail(format string, a ...any) {
	if c.err == nil {
		c.err = &FormatError{c.what, c.at, fmt.Sprintf(format, a...)}
	}
}

// bytes writes s, or reads that many bytes into it. Neither this nor what follows
// changes what it writes: many may write the same thing at once.
func (c *codec) bytes(s []byte) {
	if !c.reading {
		c.b = append(c.b, s...)
		return
	}
	if c.err == nil && len(c.b)-c.at < len(s) {
		c.fail("it ends where %d bytes more belong", len(s))
	}
	if c.err != nil {
		clear(s)
		return
	}
	c.at += copy(s, c.b[c.at:])
}

func (c *codec) u8(v *uint8) {
	b := [1]byte{*v}
	c.bytes(b[:])
	if c.reading {
		*v = b[0]
	}
}

func (c *codec) u32(v *uint32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], *v)
	c.bytes(b[:])
	if c.reading {
		*v = binary.LittleEndian.Uint32(b[:])
	}
}

func (c *codec) u64(v *uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], *v)
	c.bytes(b[:])
	if c.reading {
		*v = binary.LittleEndian.Uint64(b[:])
	}
}

// int is a u32 below 2³¹. A writer has checked the range.
func (c *codec) int(v *int) {
	u := uint32(*v)
	c.u32(&u)
	if u > math.MaxInt32 {
		c.fail("the number %d is too large", u)
		u = 0
	}
	if c.reading {
		*v = int(u)
	}
}

// count is an int whose things take at least size bytes each.
func (c *codec) count(v *int, size int) {
	c.int(v)
	if c.reading && c.err == nil && *v > (len(c.b)-c.at)/size {
		c.fail("%d things of %d bytes or more do not fit into the %d bytes that follow", *v, size, len(c.b)-c.at)
	}
	if c.reading && c.err != nil {
		*v = 0
	}
}

func (c *codec) flag(v *bool) {
	var u uint8
	if *v {
		u = 1
	}
	c.u8(&u)
	if u > 1 {
		c.fail("a flag is %d", u)
	}
	if c.reading {
		*v = u == 1
	}
}

func (c *codec) f32(v *float32) {
	u := math.Float32bits(*v)
	c.u32(&u)
	if c.reading {
		*v = math.Float32frombits(u)
	}
}

func (c *codec) f64(v *float64) {
	u := math.Float64bits(*v)
	c.u64(&u)
	if c.reading {
		*v = math.Float64frombits(u)
	}
}

// floats is n values without their number. It makes room only for what is there.
func (c *codec) floats(v *[]float32, n int) {
	if c.reading {
		*v = nil
		if c.err == nil && n > (len(c.b)-c.at)/4 {
			c.fail("it ends where %d values more belong", n)
		}
		if c.err != nil || n == 0 {
			return
		}
		*v = make([]float32, n)
	}
	for i := range *v {
		c.f32(&(*v)[i])
	}
}

// ids is a number of ids and the ids.
func (c *codec) ids(v *[]int32) {
	n := len(*v)
	c.count(&n, 4)
	if c.reading {
		*v = nil
		if n > 0 {
			*v = make([]int32, n)
		}
	}
	for i := range *v {
		u := uint32((*v)[i])
		c.u32(&u)
		if c.reading {
			(*v)[i] = int32(u)
		}
	}
}

// str is a length and the bytes of a string of at most most bytes.
func (c *codec) str(s *string, most int) {
	n := len(*s)
	c.count(&n, 1)
	if n > most {
		c.fail("a string of %d bytes; the most is %d", n, most)
		n = 0
	}
	b := make([]byte, n)
	copy(b, *s)
	c.bytes(b)
	if c.reading {
		*s = string(b)
	}
}

// magic is bytes that are always the same.
func (c *codec) magic(s string) {
	b := []byte(s)
	c.bytes(b)
	if c.err == nil && string(b) != s {
		c.at -= len(s)
		c.fail("it begins with %q and not with %q", b, s)
	}
}

// end is the end of what is read.
func (c *codec) end() error {
	if c.reading && c.err == nil && c.at < len(c.b) {
		c.fail("%d bytes follow its end", len(c.b)-c.at)
	}
	return c.err
}
