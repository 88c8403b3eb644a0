/* upload.c - bodies that come in parts, and how much memory they may take together. */
#include "node/body/upload.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void uploads_init(struct uploads *uploads, size_t limit_bytes)
{
    *uploads = (struct uploads){.limit_bytes = limit_bytes};
    TAILQ_INIT(&uploads->waiting);
}

static bool has_room(const struct uploads *uploads, size_t size)
{
    return uploads->reserved_bytes == 0 ||
           (size <= uploads->limit_bytes &&
            uploads->reserved_bytes <= uploads->limit_bytes - size);
}

int upload_begin(struct uploads *uploads, struct upload *upload, size_t size)
{
    assert(upload->uploads == NULL && size != 0);
    upload->bytes = malloc(size); /* the kernel gives pages as they are written */
    if (upload->bytes == NULL)
        return DRV_ENOMEM;
    upload->uploads = uploads;
    upload->size = size;
    if (TAILQ_EMPTY(&uploads->waiting) && has_room(uploads, size)) {
        uploads->reserved_bytes += size;
    } else {
        upload->waits = true;
        TAILQ_INSERT_TAIL(&uploads->waiting, upload, link);
    }
    return 0;
}

int upload_take(struct upload *upload, const uint8_t *part, size_t n, size_t message_bytes,
                size_t *release)
{
    *release = 0;
    if (n > upload->size - upload->have)
        return DRV_EINVAL;
    if (n != 0)
        memcpy(upload->bytes + upload->have, part, n);
    upload->have += n;
    if (upload->waits)
        upload->withheld_bytes += message_bytes;
    else
        *release = message_bytes;
    return 0;
}

struct upload *uploads_next(struct uploads *uploads)
{
    struct upload *first = TAILQ_FIRST(&uploads->waiting);

    if (first == NULL || !has_room(uploads, first->size))
        return NULL;
    TAILQ_REMOVE(&uploads->waiting, first, link);
    first->waits = false;
    uploads->reserved_bytes += first->size;
    return first;
}

uint32_t upload_position(const struct upload *upload)
{
    const struct upload *at;
    uint32_t position = 0;

    if (!upload->waits)
        return 0;
    TAILQ_FOREACH(at, &upload->uploads->waiting, link) {
        if (at == upload)
            break;
        position++;
    }
    return position;
}

void upload_drop(struct upload *upload)
{
    free(upload->bytes);
    upload->bytes = NULL;
}

void upload_end(struct upload *upload)
{
    upload_drop(upload);
    if (upload->uploads == NULL)
        return;
    if (upload->waits)
        TAILQ_REMOVE(&upload->uploads->waiting, upload, link);
    else
        upload->uploads->reserved_bytes -= upload->size;
    *upload = (struct upload){0};
}
