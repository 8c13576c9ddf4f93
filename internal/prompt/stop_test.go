package prompt

import (
	"strings"
	"testing"
)

func TestStopper(t *testing.T) {
	for _, c := range []struct {
		stops, in []string
		want      string
	}{
		{nil, []string{"ab", "c"}, "abc"},
		{[]string{"END"}, []string{"abE", "N", "x", "EN", "D more"}, "abENx"},
		{[]string{"END"}, []string{"abEN"}, "abEN"},
		{[]string{"b", "abc"}, []string{"abc"}, ""},
	} {
		s := Stopper{Texts: c.stops}
		var got strings.Builder
		for _, x := range c.in {
			show, _ := s.Add(x, false)
			got.WriteString(show)
		}
		show, _ := s.Add("", true)
		got.WriteString(show)
		if got.String() != c.want {
			t.Errorf("%q of %q is %q, want %q", c.in, c.stops, got.String(), c.want)
		}
	}
}
