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

struct json_value;

/* Of an enum drover.v1.Operation.  A number that is not known holds a slot, as a generation:
 * the harmless guess. */
enum op_class operation_class(int operation);

/* Holds no slot, waits in no queue, teaches nothing. */
bool operation_is_question(int operation);

/* Is its body a multipart form, or JSON?  `is_json`: this one is JSON, for those that take
 * both.
 */
bool operation_takes_form(int operation, bool is_json);

/* May it be asked with this HTTP method?  "" is POST. */
bool operation_takes_method(int operation, const char *method);

#define OPERATION_TARGET_BYTES 1024

/* STATE: is it a path, with or without a query, below the two that hold what engines keep, and
 * nothing that an engine could read as another one? */
bool operation_target_ok(const char *target);

/* Does the request only ask Ollama to take a model out of memory, as `ollama stop` does: no
 * prompt, no messages, and a keep_alive of 0?  It is a question to each node that has the
 * model.  `root`: the body. */
bool operation_unloads(int operation, const struct json_value *root);

/* The operation of this operation_name(), which need not end with a NUL; 0 = there is none. */
int operation_find(const char *name, size_t n);

#endif
