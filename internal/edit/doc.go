// Package edit knows which objects a person means, and carries out the changes that users declare for
// objects on their way to another place: JSON patches and CEL expressions. It decides nothing and reaches
// nothing; the same object and declaration always give the same result.
package edit
