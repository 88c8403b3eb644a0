/* aliases.c - the names that the configuration in force gives to models. */
#include "shm/aliases.h"

#include <string.h>

#include "base/config/config.h"
#include "shm/segment.h"
#include "shm/seqlock.h"

static_assert(ALIASES_MAX == SB_ALIASES, "new layout version");
static_assert(sizeof(struct alias_view) == SB_ALIAS_BYTES, "new layout version");

void aliases_publish(struct scoreboard *board, const struct config *config)
{
    struct sb_aliases *table = segment_aliases(board);
    uint32_t count = config->aliases_count < ALIASES_MAX ? config->aliases_count : ALIASES_MAX;

    if (!board->writable)
        return;
    seqlock_begin(&table->seq);
    for (uint32_t i = 0; i < count; i++) {
        struct alias_view view = {0};

        (void)strlcpy(view.name, config->aliases[i].name, sizeof(view.name));
        (void)strlcpy(view.model, config->aliases[i].model, sizeof(view.model));
        seqlock_store(table->alias[i], &view, sizeof(view));
    }
    atomic_store_explicit(&table->count, count, memory_order_release);
    seqlock_end(&table->seq);
}

bool aliases_read(const struct scoreboard *board, unsigned row, struct alias_view *out)
{
    const struct sb_aliases *table = segment_aliases(board);

    if (row >= ALIASES_MAX ||
        row >= atomic_load_explicit(&table->count, memory_order_acquire) ||
        !seqlock_read(out, table->alias[row], sizeof(*out), &table->seq))
        return false;
    /* The file may be damaged. */
    out->name[sizeof(out->name) - 1] = '\0';
    out->model[sizeof(out->model) - 1] = '\0';
    return true;
}
