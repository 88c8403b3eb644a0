/*
 * model_about.h - what an engine says of a model's file, and of its place in memory.
 *
 * Only Ollama says it.  Its clients show it; nothing is decided by it, so instants are its own
 * words and no time of ours.
 */
#ifndef DROVER_BASE_MODEL_ABOUT_H
#define DROVER_BASE_MODEL_ABOUT_H

#include <stdint.h>

#define MODEL_DIGEST_BYTES  65 /* with NUL, as all of these */
#define MODEL_INSTANT_BYTES 36
#define MODEL_DETAIL_BYTES  16

/* All zero: nothing was said. */
struct model_about {
    uint64_t size_bytes;   /* of the file; 0 = not known */
    uint64_t memory_bytes; /* while it is loaded, of which vram_bytes are a GPU's */
    uint64_t vram_bytes;
    char digest[MODEL_DIGEST_BYTES];
    char modified_at[MODEL_INSTANT_BYTES];
    char format[MODEL_DETAIL_BYTES];
    char family[MODEL_DETAIL_BYTES];
    char parameter_size[MODEL_DETAIL_BYTES];
    char quantization[MODEL_DETAIL_BYTES];
    char expires_at[MODEL_INSTANT_BYTES]; /* while it is loaded */
};

#endif
