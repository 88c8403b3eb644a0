/* fields.h - members of an engine's answers, read with a sane value for all that is odd.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_KINDS_FIELDS_H
#define DROVER_NODE_ENGINE_KINDS_FIELDS_H

#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct engine_facts;
struct json_value;

/* A number from 0 to UINT32_MAX; 0 when the member is none. */
MUST_CHECK uint32_t fields_count(const struct json_value *object, const char *name);

/* A text that may be a name; "" when the member is none. */
void fields_name(const struct json_value *object, const char *name, char *out, size_t cap);

/* A text that names a model, into ENGINE_MODEL_BYTES; "" when it is none.  A name that is too
 * long or no printable text is counted in facts->left_out. */
void fields_model(struct engine_facts *facts, const struct json_value *text, char *out);

#endif
