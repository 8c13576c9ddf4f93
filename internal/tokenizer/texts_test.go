package tokenizer

import (
	"math/rand/v2"
	"strings"
)

// parts are what hostile texts are made of.
var parts = []string{
	" ", "  ", "   ", "     ", "\n", "\r\n", "\r", "\n\n", "\t", "\v", "\f", "\u0085", "\u00a0", "\u2003", "\u2028",
	"\u3000", " \n", "\n ", "    \n", "                 ",
	"a", "b", "Z", "the", "The", "HELLO", "hELLo", "café", "CAFÉ", "cafe\u0301", "ß", "ﬁ", "ǅ", "ʰ", "ªº", "µ", "ſ", "K",
	"'s", "'S", "'t", "'re", "'RE", "'Ve", "'m", "'M", "'ll", "'lL", "'d", "'D", "'", "''", "’s", "'x", "s'", "'r", "'ſ",
	"0", "1", "12", "123", "1234", "1234567", "12345678901", "3.14", "1,000", "½", "²", "٣", "४५६", "Ⅻ", "①", "〇",
	".", ",", "!", "?", "...", "!!!", "-", "--", "_", "/", "//", "\\", "(", ")", "[", "]", "{}", "#", "%", "&", "*", "@",
	":", ";", "\"", "~", "~~", "^", "|", "+", "=", "<", ">", "$", "`", "``", "<=", "€", "£", "©", "«", "»", "—", "…", "“", "”",
	"。", "，", "、", "！", "：", "（", "～", "〜", "・", "।", "۔", "،", "‘", "〝",
	"中", "中文", "工作", "㐀", "𠀀", "豈", "𪛟", "龥", "龦", "鿿", "丂", "ひらがな", "カタカナ", "ﾊﾝ", "ㄅㄆ", "ㄱㄴ",
	"한", "한국어", "가", "ힰ", "ไทย", "ก็", "ลาว", "ខ្មែរ", "မြန်", "नमस्ते", "কি", "தமிழ்", "العربية", "بِسْم",
	"עִבְ", "Привет", "ПРИВЕТ", "Ελλάδα", "ნაბ", "ᲐᲑ", "հայ", "ᏣᎳᎩ", "ꭰ", "𐐀𐐨", "𞤀", "Ꙁ", "ꜢꜣꝯꞋ", "Ｆｕｌｌ",
	"😀", "👨‍👩‍👧", "🏳️‍🌈", "☃", "✅", "\u200d", "\ufe0f", "\u0301", "\u0300\u0301", "\u0903", "\u20dd",
	"\x00", "\x01", "\x1c", "\x1f", "\x7f", "\u00ad", "\ufeff", "\u200b", "\ue000", "\U0010ffff", "\u0378", "\ufffd", "\U0002ebf5",
	"<sentinel:12>", "<sentinel:>", "IMGIMGABCDZ", "IMGIMGABCDEZ", "IMGIMGZ", "a b c", "x = y+1;", "http://a.b/c?d=e",
	"foo_bar", "camelCase", "SCREAMING_CASE", "</s>", "<s>", "<|im_end|>", "<|endoftext|>", "<unk>", "[MASK]", "▁", "▁a", "Ġ",
	"ied 4 ½ months",
}

// hostile makes a text of up to n parts, some of them any code point.
func hostile(rng *rand.Rand, n int) string {
	var b strings.Builder
	for range 1 + rng.IntN(n) {
		switch rng.IntN(12) {
		case 0:
			r := rune(rng.IntN(0x30000))
			if r >= 0xD800 && r < 0xE000 {
				r = 'x'
			}
			b.WriteRune(r)
		case 1:
			b.WriteRune(rune(rng.IntN(0x250)))
		case 2:
			b.WriteString(strings.Repeat(parts[rng.IntN(len(parts))], 1+rng.IntN(6)))
		default:
			b.WriteString(parts[rng.IntN(len(parts))])
		}
	}
	return b.String()
}
