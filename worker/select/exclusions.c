/* exclusions.c - the nodes that one request is not sent to. */
#include "worker/select/exclusions.h"

#include <stddef.h>
#include <stdlib.h>

static struct excluded_node *find_entry(struct exclusions *exclusions, unsigned node,
                                        uint32_t generation, uint64_t now)
{
    struct excluded_node *first = &exclusions->of[0], *over = NULL;

    for (uint32_t i = 0; i < exclusions->count; i++) {
        struct excluded_node *e = &exclusions->of[i];

        if (e->node == node && e->generation == generation)
            return e;
        if (e->until_mono_us <= now && !e->was_away)
            over = e;
        if (e->until_mono_us < first->until_mono_us)
            first = e;
    }
    if (over != NULL)
        return over;
    return exclusions->count < EXCLUSIONS_MAX ? &exclusions->of[exclusions->count++] : first;
}

bool exclusions_add(struct exclusions *exclusions, struct excluded_node node,
                    uint64_t now_mono_us)
{
    struct excluded_node *entry;
    bool was_away;

    if (exclusions->of == NULL)
        exclusions->of = calloc(EXCLUSIONS_MAX, sizeof(*exclusions->of));
    if (exclusions->of == NULL)
        return node.away;
    entry = find_entry(exclusions, node.node, node.generation, now_mono_us);
    was_away =
        entry->node == node.node && entry->generation == node.generation && entry->was_away;
    *entry = node;
    entry->was_away = was_away || node.away;
    return node.away && !was_away;
}

bool exclusions_failed(const struct exclusions *exclusions, unsigned node, uint32_t generation,
                       uint64_t now_mono_us)
{
    for (uint32_t i = 0; i < exclusions->count; i++) {
        const struct excluded_node *e = &exclusions->of[i];

        if (e->node == node && e->generation == generation && e->until_mono_us > now_mono_us)
            return e->away || e->until_mono_us == UINT64_MAX;
    }
    return false;
}

void exclusions_finish(struct exclusions *exclusions)
{
    free(exclusions->of);
    *exclusions = (struct exclusions){0};
}
