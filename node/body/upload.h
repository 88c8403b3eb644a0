/*
 * upload.h - bodies that come in parts, and how much memory they may take together.
 *
 * An upload is one piece of memory of the body's size, filled as its parts come.  All of a node
 * have a limit in common: an upload reserves its whole size, in the order in which they began,
 * and one that has to wait for that gets no window, so that its sender holds the rest back;
 * what is on its way by then is taken.  As each reservation is for a whole body, none that has
 * begun waits for another.  One alone always has room.  Pure but for its memory.
 */
#ifndef DROVER_NODE_BODY_UPLOAD_H
#define DROVER_NODE_BODY_UPLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/attrs.h"

struct upload {
    struct uploads *uploads; /* borrowed; NULL iff it has not begun, or has ended */
    uint8_t *bytes;          /* owned; NULL where it was dropped */
    size_t size, have;
    bool waits;            /* for room: `link` is among the waiting */
    size_t withheld_bytes; /* of the window, while it waits */
    TAILQ_ENTRY(upload) link;
};

struct uploads {
    size_t limit_bytes;
    size_t reserved_bytes;
    TAILQ_HEAD(, upload) waiting; /* in the order in which they began */
};

void uploads_init(struct uploads *uploads, size_t limit_bytes);

/* Begins one of `size` bytes, which is not 0; `upload` is zero before.  DRV_ENOMEM. */
MUST_CHECK int upload_begin(struct uploads *uploads, struct upload *upload, size_t size);

/* Takes the next part, of a message of `message_bytes`; *release: so much of the window may be
 * given back now.  DRV_EINVAL: there are more bytes than was said. */
MUST_CHECK int upload_take(struct upload *upload, const uint8_t *part, size_t n,
                           size_t message_bytes, size_t *release);

/* The next one that no longer has to wait, or NULL; `withheld_bytes` of its window are due. */
MUST_CHECK struct upload *uploads_next(struct uploads *uploads);

/* How many wait before this one. */
uint32_t upload_position(const struct upload *upload);

/* Frees the bytes; what it reserved stays reserved until upload_end(). */
void upload_drop(struct upload *upload);

/* Frees the bytes and gives its room back.  One that never began is fine. */
void upload_end(struct upload *upload);

#endif
