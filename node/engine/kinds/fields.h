/* fields.h - members of an engine's answers, read with a sane value for all that is odd.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_KINDS_FIELDS_H
#define DROVER_NODE_ENGINE_KINDS_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct engine_facts;
struct engine_model;
struct json_value;

/* A number from 0 to UINT32_MAX; 0 when the member is none. */
MUST_CHECK uint32_t fields_count(const struct json_value *object, const char *name);

/* A text that may be a name; "" when the member is none. */
void fields_name(const struct json_value *object, const char *name, char *out, size_t cap);

/* A text that names a model, into ENGINE_MODEL_BYTES; "" when it is none.  A name that is too
 * long or no printable text is counted in facts->left_out. */
void fields_model(struct engine_facts *facts, const struct json_value *text, char *out);

/* Adds to model->has and model->lacks what `about`, a description of the model, says in any of
 * the words that engines have for it: `capabilities` (a list, or an object of booleans),
 * `modalities`, `input_modalities` (also inside of `architecture`), `supported_parameters`,
 * `has_image_understanding`, `parameters.use_vision`.  A list of capabilities says what is
 * there, not what is missing. */
void fields_abilities(struct engine_model *model, const struct json_value *about);

/* The model has the ability, or it lacks it; what was said before is void. */
void fields_say(struct engine_model *model, unsigned ability, bool has);

/* Is the text in the list? */
MUST_CHECK bool fields_list_has(const struct json_value *list, const char *text);

#endif
