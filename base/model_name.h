/*
 * model_name.h - whether two names are one model.
 *
 * Ollama compares names without regard to case, and adds "registry.ollama.ai/", "library/" and
 * ":latest" to a name that lacks them.  Where its models are meant, all code compares with
 * model_name_equal(); names of other engines are the same only to the byte.  Pure.
 */
#ifndef DROVER_BASE_MODEL_NAME_H
#define DROVER_BASE_MODEL_NAME_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

/* Are the two names one model to Ollama? */
MUST_CHECK bool model_name_equal(const char *a, const char *b);

/* The name's length without the ":latest" at its end, if that is there. */
MUST_CHECK size_t model_name_untagged_len(const char *name);

#endif
