/*
 * operations.h - what each operation of the wire is.  Pure.
 *
 * Workers, nodes and the health process agree on it.  Operations that no node serves (lists of
 * models, versions, health) are not on the wire: the coordinator answers them itself.
 */
#ifndef DROVER_PROTO_OPERATIONS_H
#define DROVER_PROTO_OPERATIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/kinds.h"

/* Of an enum drover.v1.Operation.  A number that is not known holds a slot, as a generation:
 * the harmless guess. */
enum op_class operation_class(int operation);

/* Holds no slot, waits in no queue, teaches nothing. */
bool operation_is_question(int operation);

/* The operation of this operation_name(), which need not end with a NUL; 0 = there is none. */
int operation_find(const char *name, size_t n);

#endif
