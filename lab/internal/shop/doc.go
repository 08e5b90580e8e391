// Package shop is the lab's sample application: a web program that takes orders and answers one only when
// it is on disk.
package shop
