// Package restore puts an application's captured cluster state back at another site: it changes what has
// to differ there, applies the objects in the order in which they need each other, and compares the
// outcome with what was captured.
//
// A Set holds a checkpoint of any size in little memory: of each object its key, and its document
// compressed (a large one not at all, where the source can give it again). Nothing holds all objects at
// once. Prepare looks at each in turn and keeps an item: key, needs as edges to other items, and the few
// facts that are asked of it later. The object as it is restored, its form, is a pure function of the
// captured document and the options; it is made when its turn comes, and made again where it is needed
// again. One object asks about another through Set.lookup; what is asked of many is a fact.
//
// Apply first surveys what is there, from lists a page at a time of the kinds and namespaces of the set, and
// keeps a byte of each object: what is not there costs one write, what is done already nothing, and only what
// differs is looked at again when its turn comes. That is also how it resumes. Verify reads the same lists.
// Objects are made by a POST, which costs an API server less than an apply (custom resources are applied: see
// post); the first apply over one takes its fields over (see adopt), so that what a later recovery point does not
// have any more goes.
package restore
