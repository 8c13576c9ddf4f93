package constrain

// formatPattern returns the pattern that stands for a format. Each accepts
// only texts of the format: date knows the lengths of months and leap years,
// time leaves out leap seconds, email leaves out quoted local parts and address
// literals, uri leaves out address literals and needs an authority after "//".
func formatPattern(name string) (string, bool) {
	const (
		leap = `(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)`
		date = `(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])` +
			`|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|` + leap + `-02-29)`
		clock = `(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])`
		label = `[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?`
		host  = label + `(?:\.` + label + `){0,7}`
		atom  = "[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+"
		octet = `(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])`
		pchar = `(?:[0-9A-Za-z._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})`
	)
	switch name {
	case "date":
		return `^` + date + `$`, true
	case "time":
		return `^` + clock + `$`, true
	case "date-time":
		return `^` + date + `T` + clock + `$`, true
	case "uuid":
		return `^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`, true
	case "email":
		return `^` + atom + `(?:\.` + atom + `)*@` + host + `$`, true
	case "hostname":
		return `^` + host + `$`, true
	case "ipv4":
		return `^` + octet + `(?:\.` + octet + `){3}$`, true
	case "uri":
		return `^[A-Za-z][0-9A-Za-z+.-]*:(?:` +
			`//` + host + `(?::[0-9]{1,4})?(?:/` + pchar + `*)*` +
			`|` + pchar + `+(?:/` + pchar + `*)*)` +
			`(?:\?(?:` + pchar + `|[/?])*)?(?:#(?:` + pchar + `|[/?])*)?$`, true
	}
	return "", false
}
