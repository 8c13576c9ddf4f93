// Package nostr is the node's side of the Nostr protocol: its key, signed
// events, an embedded relay, and a client of other relays.
//
// Sources: NIP-01 (events, relays), NIP-06 (keys from words), NIP-09
// (deletion), NIP-11 (relay information), NIP-13 (proof of work), NIP-19 (npub,
// nsec), NIP-40 (expiration) and NIP-49 (encrypted keys). Event types and the
// event store are those of fiatjaf.com/nostr; everything that reads bytes from
// strangers is here, with a bound on each of them: sizes, numbers of tags,
// subscriptions, queues, and time.
//
// What an event means is not known here: package market reads asks, bids and
// reviews.
package nostr
