package corpus

import (
	"regexp"
	"strings"
)

// unit is a stretch of one book: a tale, or what stands between tales.
type unit struct {
	paragraphs []string
	begins     bool // the first paragraph is how tales begin
	ends       bool // the last paragraph is the end of a tale
}

var (
	// What tales begin with.
	opening = regexp.MustCompile(`^(?:Once upon|Upon a time|Once,? (?:there|in|long|on a time|when|an?|two|three|lived)\b` +
		`|There (?:once|(?:was|were|lived|dwelt|reigned)(?: once| formerly| upon|, once| long ago))\b` +
		`|There (?:lived|dwelt|reigned) |Long(?:, long)*,? (?:ago|years)|Many,? (?:many,? )*(?:hundred |thousand )?years ago` +
		`|A (?:long|very long|great many) (?:time|while|years) ago|(?:Ages|Years) ago` +
		`|In (?:the )?(?:olden|ancient|old|far-off|bygone|good old) (?:times?|days)|In times past|In days gone` +
		`|A certain (?:man|woman|king|poor|rich|old|peasant|merchant|farmer)|At one time there|In a (?:far|certain|distant) \w+ there` +
		`|There was (?:a|an) [^.!?]{0,70}(?:who|whose|named|called|that had|that lived|and his wife|and her)\b)`)
	// What tales end with.
	closing = regexp.MustCompile(`(?:(?:happy|happily|peace|joy|content|contentedly|merrily|comfort|prosperity)(?: for)? (?:ever|evermore|ever after|ever afterwards?|to the end|till|until|all|together|to a|the rest)|(?:happy|happily) (?:together|ever)` +
		`|ever after|evermore|to this (?:very )?day|till this (?:very )?day|all (?:the|their|his|her) (?:days|lives|life|life long)|(?:still )?living (?:still|now|there still|yet)|lives? (?:there )?(?:still|yet)|rest of (?:their|his|her) (?:days|lives|life)` +
		`|my (?:story|tale) (?:is )?(?:done|ended|told|out|ends)|end of (?:the|my|this) (?:story|tale)|(?:his|her|their|a) (?:good )?(?:old age|dying day|death))[^.!?]{0,45}[.!]["']*$`)
	// Writing about tales.
	about     = regexp.MustCompile(`(?i)\b(?:versions?|variants?|folk-?lor\w*|folk[- ]?tales?|editions?|volumes?|collections?|collectors?|editors?|translat\w+|footnotes?|pp?\.|vols?\.|ibid|literature|authors?|readers?|illustrat\w+|chapters?|mytholog\w+|nursery|grimms?|jacobs|century|centuries|traditions?|published|publishers?|preface|typographical|amended|hyphen\w*|scholars?|students?|incidents?|pronounced|pronunciation|etymolog\w+|copyright|index|glossary|manuscripts?|references?|transcrib\w+|frontispiece|legendary|aryan|celtic|parallels?|professor|museum|poet|poem|(?:stories|tales) of this (?:class|kind))\b|\b1[5-9]\d\d\b`)
	notes     = regexp.MustCompile(`^\s*(?:Sources?\b|Parallels?\b|Remarks?\b|Page \d|Pages \d|\[|Footnote|Illustrat|Note[.:s]|Transcriber|Copyright|Published|See |Cf\.|Afanasief|Khudyakof|Erlenvein|E-?[Bb]ook|THE END|Printed|\*|\d)`)
	brackets  = regexp.MustCompile(`\[[^\]]{0,80}\]`)
	blanks    = regexp.MustCompile(` +`)
	beforeDot = regexp.MustCompile(` +([,.;:!?])`)
	quoted    = regexp.MustCompile(`"[^"]*"?`)
	past      = regexp.MustCompile(`\b(?:was|were|had|said|went|came|could|did|would|saw|took|gave|told|made|thought|began|asked|cried)\b`)
	present   = regexp.MustCompile(`\b(?:is|are|has|have|may|can|we|our|us|it's|shall)\b`)
	common    = regexp.MustCompile(`(?i)\b(?:the|and|of|to|a|in|he|she|it|that|was|his|her|with|they|you|i|for|as|not|so|but|had|is|on|at)\b`)
)

// longest is the length in bytes of a tale. What is longer has tales within it
// whose beginnings were not found.
const longest = 30000

// cut finds the units of a text and counts the paragraphs it drops.
func cut(text string) (units []unit, dropped int) {
	for book := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n") {
		var u unit
		gone := 0 // paragraphs dropped since the last one that was kept
		flush := func(ends bool) {
			if len(u.paragraphs) > 0 {
				size := 0
				for _, p := range u.paragraphs {
					size += len(p)
				}
				u.begins = u.begins && size <= longest
				u.ends = ends
				units = append(units, u)
			}
			u = unit{}
		}
		for line := range strings.SplitSeq(book, "\n") {
			p, ok := clean(line)
			if !ok {
				if line != "" {
					dropped++
					gone++
				}
				continue
			}
			begins := opening.MatchString(p)
			// A tale that begins right after its beginning is an opening in
			// two paragraphs.
			if begins && !(u.begins && len(u.paragraphs) == 1) {
				flush(true)
			} else if gone > 2 {
				flush(true)
			}
			gone = 0
			if len(u.paragraphs) == 0 {
				u.begins = begins
			}
			u.paragraphs = append(u.paragraphs, p)
			if len(u.paragraphs) > 1 && closing.MatchString(p) {
				flush(true)
			}
		}
		flush(gone == 0)
	}
	return units, dropped
}

// clean gives a paragraph without references and broken spaces, and whether it
// tells of something.
func clean(line string) (string, bool) {
	if len(line) < 20 || notes.MatchString(line) {
		return "", false
	}
	p := strings.ReplaceAll(line, "&mdash;", "--")
	p = brackets.ReplaceAllString(p, "")
	p = beforeDot.ReplaceAllString(blanks.ReplaceAllString(p, " "), "$1")
	p = strings.TrimSpace(p)
	if p == "" {
		return "", false
	}
	told := quoted.ReplaceAllString(p, "")
	outside := len(past.FindAllStringIndex(told, -1))
	now := len(present.FindAllStringIndex(told, -1))
	talk := len(about.FindAllStringIndex(told, -1))
	words := strings.Count(p, " ") + 1
	switch {
	case talk >= 3, talk == 2 && outside < 8, talk == 1 && outside < 2:
		return "", false
	case now >= 2 && now > outside:
		return "", false
	case words >= 8 && len(common.FindAllStringIndex(p, -1))*6 < words:
		return "", false // no English prose
	case strings.Count(p, "=") > 1 || strings.Count(p, "(") > 2 || strings.Count(p, ";")*12 > words:
		return "", false // lists
	}
	return p, true
}
