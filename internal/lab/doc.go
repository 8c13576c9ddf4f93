// Package lab attacks the audit. Cheating providers run small models with
// every value within their reach altered, commit to what they have, answer
// challenges as well as they can, and are counted: how many of them
// audit.Verify catches, beside how many theory says it must, and whether
// re-execution convicts the rest. It also audits honest runs in great number,
// of which none may be accused.
package lab
