package prompt

import "strings"

// Stopper cuts a text that comes in pieces before the first of some stop texts,
// and holds back what may begin one.
type Stopper struct {
	Texts []string
	held  string
	done  bool
}

// Add takes a piece and returns what may be shown; last: no more follows. stopped
// tells whether a stop text has appeared: then nothing is shown any more.
func (s *Stopper) Add(text string, last bool) (show string, stopped bool) {
	if s.done {
		return "", true
	}
	s.held += text
	cut := -1
	for _, x := range s.Texts {
		if i := strings.Index(s.held, x); i >= 0 && (cut < 0 || i < cut) {
			cut = i
		}
	}
	if cut >= 0 {
		s.done = true
		return s.held[:cut], true
	}
	keep := 0
	if !last {
		for _, x := range s.Texts {
			for n := min(len(x)-1, len(s.held)); n > keep; n-- {
				if strings.HasSuffix(s.held, x[:n]) {
					keep = n
				}
			}
		}
	}
	show, s.held = s.held[:len(s.held)-keep], s.held[len(s.held)-keep:]
	return show, false
}
