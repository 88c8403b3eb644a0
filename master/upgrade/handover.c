/* handover.c - what a master and its successor say to each other. */
#include "master/upgrade/handover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/text/buf.h"

void handover_finish(struct handover *handover)
{
    free(handover->nodes);
    *handover = (struct handover){0};
}

int handover_add_node(struct handover *handover, const char *name, enum handover_state state)
{
    struct handover_node *more =
        reallocarray(handover->nodes, handover->nodes_count + 1, sizeof(*more));
    struct handover_node *node;

    if (more == NULL)
        return DRV_ENOMEM;
    handover->nodes = more;
    node = &more[handover->nodes_count++];
    *node = (struct handover_node){.state = state};
    (void)strlcpy(node->name, name, sizeof(node->name));
    return 0;
}

void handover_encode(struct buf *out, const struct handover *handover)
{
    if (handover->scaled)
        buf_printf(out, "workers %u\n", handover->workers);
    for (int i = 0; i < INHERIT_LISTENERS; i++) {
        if (handover->activated[i])
            buf_printf(out, "activated %s\n", inherit_name((enum inherit_what)i));
    }
    for (size_t i = 0; i < handover->nodes_count; i++)
        buf_printf(out, "%s %s\n", handover->nodes[i].state == HANDOVER_UP ? "up" : "drained",
                   handover->nodes[i].name);
}

bool handover_workers(unsigned *out, const char *text)
{
    char *end;
    unsigned long n;

    if (text[0] < '0' || text[0] > '9')
        return false;
    n = strtoul(text, &end, 10);
    if (*end != '\0' || n > HANDOVER_MAX_WORKERS)
        return false;
    *out = (unsigned)n;
    return true;
}

static int take_line(struct handover *out, const char *word, const char *rest)
{
    if (strcmp(word, "workers") == 0) {
        out->scaled = handover_workers(&out->workers, rest);
    } else if (strcmp(word, "activated") == 0) {
        for (int i = 0; i < INHERIT_LISTENERS; i++)
            out->activated[i] =
                out->activated[i] || strcmp(rest, inherit_name((enum inherit_what)i)) == 0;
    } else if (strcmp(word, "up") == 0) {
        return handover_add_node(out, rest, HANDOVER_UP);
    } else if (strcmp(word, "drained") == 0) {
        return handover_add_node(out, rest, HANDOVER_DRAINED);
    }
    return 0;
}

int handover_decode(struct handover *out, const char *text, size_t n, struct error *err)
{
    char line[HANDOVER_NAME_BYTES + 32];
    const char *end = text + n;
    int rc = 0;

    *out = (struct handover){0};
    while (text < end && rc == 0) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t bytes = (size_t)((stop == NULL ? end : stop) - text);
        char *space;

        if (bytes < sizeof(line)) {
            memcpy(line, text, bytes);
            line[bytes] = '\0';
            space = strchr(line, ' ');
            if (space != NULL && space[1] != '\0' && strlen(line) == bytes) {
                *space = '\0';
                rc = take_line(out, line, space + 1);
            }
        }
        text += bytes + 1;
    }
    if (rc != 0) {
        handover_finish(out);
        return error_set(err, rc, "out of memory");
    }
    return 0;
}

void handover_say(int channel, const char *word, const char *text)
{
    char message[HANDOVER_MESSAGE_BYTES];

    if (channel == -1)
        return;
    (void)snprintf(message, sizeof(message), "%s%s%s", word, text[0] == '\0' ? "" : " ", text);
    (void)send(channel, message, strlen(message), MSG_NOSIGNAL | MSG_DONTWAIT);
}

int handover_hear(int channel, char out[HANDOVER_MESSAGE_BYTES])
{
    ssize_t n;

    do {
        n = recv(channel, out, HANDOVER_MESSAGE_BYTES - 1, MSG_DONTWAIT);
    } while (n == -1 && errno == EINTR);
    if (n == -1 && errno == EAGAIN)
        return 0;
    if (n <= 0)
        return -1;
    out[n] = '\0';
    return 1;
}
