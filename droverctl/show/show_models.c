/* show_models.c - `models`: what clients may ask for, each model and each alias once. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/kinds.h"
#include "base/model_name.h"
#include "droverctl/format/emit.h"
#include "droverctl/format/text.h"
#include "droverctl/view.h"
#include "shm/aliases.h"
#include "shm/scoreboard.h"

/* One model on one node. */
struct offer {
    char model[NODE_MODEL_BYTES];
    char node[NODE_NAME_BYTES];
    char alias_of[NODE_MODEL_BYTES]; /* "" = it is no alias */
    bool up;
    bool ollama; /* the node stands before Ollama */
    uint32_t slots;
    uint32_t state;
    uint32_t max_context;
    uint32_t operations;
    uint32_t has;
};

struct offers {
    struct offer *at; /* owned */
    size_t len, cap;
    bool failed; /* out of memory */
};

static struct offer *add_offer(struct offers *list)
{
    if (list->len == list->cap) {
        size_t cap = list->cap == 0 ? 64 : list->cap * 2;
        struct offer *grown = reallocarray(list->at, cap, sizeof(*grown));

        if (grown == NULL) {
            list->failed = true;
            return NULL;
        }
        list->at = grown;
        list->cap = cap;
    }
    list->at[list->len] = (struct offer){0};
    return &list->at[list->len++];
}

static void collect(struct offers *list, const struct scoreboard *board)
{
    for (unsigned node = 0; node < scoreboard_max_nodes(board); node++) {
        enum node_state state = nodes_state(board, node);
        struct node_info info;

        if (state == NODE_GONE || !nodes_read(board, node, &info))
            continue;
        for (uint32_t m = 0; m < info.models_count; m++) {
            const struct node_model *model = &info.models[m];
            struct offer *offer = add_offer(list);

            if (offer == NULL)
                return;
            (void)strlcpy(offer->model, model->id, sizeof(offer->model));
            (void)strlcpy(offer->node, info.name, sizeof(offer->node));
            if (model->alias_of != 0)
                (void)strlcpy(offer->alias_of, info.models[model->alias_of - 1].id,
                              sizeof(offer->alias_of));
            offer->up = state == NODE_UP || state == NODE_PROBATION;
            offer->ollama = strcmp(engine_kind_name(info.engine), "ollama") == 0;
            offer->slots = info.slots;
            offer->state = model->state;
            offer->max_context = model->max_context;
            offer->operations = model->operations;
            offer->has = model->has;
        }
    }
}

static int by_name(const void *a, const void *b)
{
    const struct offer *x = a, *y = b;
    int order = strcmp(x->model, y->model);

    return order != 0 ? order : strcmp(x->node, y->node);
}

/* A name that clients may use, and the offers of its models: of each node one. */
struct entry {
    const char *name;
    const char *alias_of;           /* "" = it is no alias of one model */
    const struct alias_view *alias; /* with several: its rows; NULL: it is none */
    size_t alias_rows;
    const struct offer *offer;
    struct offer *own; /* owned: `offer`, where it was put together; else NULL */
    size_t n;
};

/* The configuration's aliases, in its order: the models of one follow each other. */
struct aliases {
    struct alias_view *at; /* owned */
    size_t len;
};

static bool is_wildcard(const char *name)
{
    size_t n = strlen(name);

    return n != 0 && name[n - 1] == '*';
}

static int by_entry(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static bool read_aliases(struct aliases *aliases, const struct scoreboard *board)
{
    aliases->at = reallocarray(NULL, ALIASES_MAX, sizeof(*aliases->at));
    if (aliases->at == NULL)
        return false;
    while (aliases_read(board, (unsigned)aliases->len, &aliases->at[aliases->len]))
        aliases->len++;
    return true;
}

/* The sorted offers of this very name.  A node has a model once, unless the file is damaged. */
static size_t offers_named(const struct offers *list, const char *model, size_t most,
                           const struct offer **first)
{
    size_t low = 0, high = list->len, n = 0;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(list->at[middle].model, model) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    while (n < most && low + n < list->len && strcmp(list->at[low + n].model, model) == 0)
        n++;
    *first = n == 0 ? NULL : &list->at[low];
    return n;
}

static bool are_ollamas(const struct offer *offer, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!offer[i].ollama)
            return false;
    return n != 0;
}

/* The offers of the name with ":latest" at its end, or without. */
static size_t offers_tagged(const struct offers *list, const char *model, size_t most,
                            const struct offer **first)
{
    char other[NODE_MODEL_BYTES];
    size_t n = model_name_untagged_len(model);

    (void)strlcpy(other, model, sizeof(other));
    if (model[n] == '\0')
        (void)strlcat(other, ":latest", sizeof(other));
    else if (n < sizeof(other))
        other[n] = '\0';
    return offers_named(list, other, most, first);
}

/* The offers of the model that workers take the name for. */
static size_t offers_of(const struct offers *list, const char *model, size_t most,
                        const struct offer **first)
{
    size_t n = offers_named(list, model, most, first), count;

    for (size_t i = 0; i < list->len && n == 0; i += count) {
        count = offers_named(list, list->at[i].model, list->len, first);
        if (model_name_equal(list->at[i].model, model) && are_ollamas(*first, count))
            n = count < most ? count : most;
    }
    return n != 0 ? n : offers_tagged(list, model, most, first);
}

/* The rows of the alias at `first`. */
static size_t rows_of(const struct aliases *aliases, size_t first)
{
    size_t n = 1;

    while (first + n < aliases->len &&
           strcmp(aliases->at[first].name, aliases->at[first + n].name) == 0)
        n++;
    return n;
}

static bool has_node(const struct offer *offers, size_t n, const char *node)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(offers[i].node, node) == 0)
            return true;
    return false;
}

/* The offers of an alias: of each node that of the first of its models that is there. */
static void join_offers(struct entry *entry, struct offers *list, size_t most)
{
    struct offers joined = {0};
    const struct offer *found;

    for (size_t i = 0; i < entry->alias_rows; i++) {
        size_t n = offers_of(list, entry->alias[i].model, most, &found);

        for (size_t o = 0; o < n; o++) {
            struct offer *added;

            if (has_node(joined.at, joined.len, found[o].node))
                continue;
            added = add_offer(&joined);
            if (added != NULL)
                *added = found[o];
        }
    }
    list->failed |= joined.failed;
    entry->offer = entry->own = joined.at;
    entry->n = joined.len;
}

/* Is it an alias of a model that a node has?  Then that is what it stands for, also where nodes
 * have a model of this name. */
static bool is_alias(const struct aliases *aliases, const struct offers *list, const char *name)
{
    const struct offer *first;

    for (size_t i = 0; i < aliases->len; i++)
        if (strcmp(aliases->at[i].name, name) == 0 &&
            offers_of(list, aliases->at[i].model, 1, &first) != 0)
            return true;
    return false;
}

/* An entry for each model of the sorted offers and for each alias of one.  `out` has room for
 * all of them. */
static size_t make_entries(struct entry *out, struct offers *list,
                           const struct aliases *aliases, size_t most)
{
    size_t len = 0, n;

    for (size_t i = 0; i < list->len; i += n) {
        const struct offer *first = &list->at[i];

        for (n = 1; i + n < list->len && strcmp(first->model, first[n].model) == 0;)
            n++;
        if (!is_alias(aliases, list, first->model))
            out[len++] = (struct entry){
                .name = first->model, .alias_of = first->alias_of, .offer = first, .n = n};
    }
    for (size_t i = 0; i < aliases->len; i += n) {
        struct entry entry = {.name = aliases->at[i].name, .alias_of = ""};

        n = rows_of(aliases, i);
        if (is_wildcard(entry.name))
            continue; /* no model, as in /v1/models */
        if (n == 1) {
            entry.alias_of = aliases->at[i].model;
            entry.n = offers_of(list, entry.alias_of, most, &entry.offer);
        } else {
            entry.alias = &aliases->at[i];
            entry.alias_rows = n;
            join_offers(&entry, list, most);
        }
        if (entry.n != 0)
            out[len++] = entry;
        else
            free(entry.own);
    }
    if (len != 0)
        qsort(out, len, sizeof(*out), by_entry);
    return len;
}

/* Adds up the offers [0..n) of one model. */
struct sum {
    size_t n, up, resident;
    uint64_t slots;       /* of the nodes that are up */
    uint32_t least, most; /* context; 0 = unknown */
    uint32_t operations;
    uint32_t has; /* bit (1 << enum ability), of any */
};

static struct sum sum_up(const struct offer *offer, size_t n)
{
    struct sum sum = {.n = n};

    for (size_t i = 0; i < n; i++) {
        sum.operations |= offer[i].operations;
        sum.has |= offer[i].has;
        if (offer[i].max_context != 0 && (sum.least == 0 || offer[i].max_context < sum.least))
            sum.least = offer[i].max_context;
        if (offer[i].max_context > sum.most)
            sum.most = offer[i].max_context;
        if (!offer[i].up)
            continue;
        sum.up++;
        sum.slots += offer[i].slots;
        sum.resident += offer[i].state == 1; /* MODEL_STATE_READY */
    }
    return sum;
}

static void model_json(struct view *view, const struct entry *entry, const struct sum *sum)
{
    const struct offer *offer = entry->offer;
    struct buf *out = &view->out;

    emit_object(out, NULL);
    emit_text(out, "id", entry->name);
    if (entry->alias_of[0] != '\0')
        emit_text(out, "alias_of", entry->alias_of);
    if (entry->alias != NULL) {
        emit_array(out, "alias_of_any");
        for (size_t i = 0; i < entry->alias_rows; i++)
            emit_text(out, NULL, entry->alias[i].model);
        emit_end_array(out);
    }
    emit_uint(out, "nodes_total", sum->n);
    emit_uint(out, "nodes_up", sum->up);
    emit_uint(out, "nodes_resident", sum->resident);
    emit_uint(out, "slots", sum->slots);
    emit_uint(out, "max_context_tokens", sum->most);
    emit_uint(out, "min_context_tokens", sum->least);
    emit_array(out, "operations");
    for (unsigned op = 0; op < 32; op++)
        if ((sum->operations >> op & 1u) != 0 && operation_name((int)op) != NULL)
            emit_text(out, NULL, operation_name((int)op));
    emit_end_array(out);
    emit_array(out, "capabilities");
    for (unsigned a = 0; a < ABILITIES; a++)
        if ((sum->has & ABILITY_BIT(a)) != 0 && ability_name(a) != NULL)
            emit_text(out, NULL, ability_name(a));
    emit_end_array(out);
    emit_array(out, "nodes");
    for (size_t i = 0; i < sum->n; i++) {
        emit_object(out, NULL);
        emit_text(out, "name", offer[i].node);
        emit_bool(out, "up", offer[i].up);
        emit_text(out, "state", model_state_name(offer[i].state));
        emit_end_object(out);
    }
    emit_end_array(out);
    emit_end_object(out);
}

static void model_row(struct view *view, struct table *table, const struct entry *entry,
                      const struct sum *sum)
{
    char a[TEXT_SHORT_BYTES];
    struct buf names = BUF_INIT, models = BUF_INIT;

    buf_str(&models, entry->alias_of);
    for (size_t i = 0; i < entry->alias_rows; i++)
        buf_printf(&models, "%s%s", i == 0 ? "" : " ", entry->alias[i].model);
    for (size_t i = 0; i < sum->n; i++) {
        buf_str(&names, i == 0 ? "" : " ");
        buf_str(&names, entry->offer[i].node);
    }
    table_text(table, &view->style, TONE_PLAIN, entry->name);
    table_printf(table, sum->up == 0 ? TONE_BAD : TONE_GOOD, "%zu/%zu", sum->up, sum->n);
    table_printf(table, TONE_PLAIN, "%zu", sum->resident);
    table_printf(table, TONE_PLAIN, "%s", text_count(a, sum->slots));
    table_printf(table, TONE_PLAIN, "%s", sum->most == 0 ? "-" : text_count(a, sum->most));
    table_text(table, &view->style, TONE_DIM, buf_cstr(&models));
    table_text(table, &view->style, TONE_PLAIN, buf_cstr(&names));
    buf_finish(&names);
    buf_finish(&models);
}

/* The nodes with a model of the alias's name, which no client can ask for. */
static size_t hidden_by(const struct aliases *aliases, size_t first, size_t n,
                        const struct offers *list, const struct offer **offers)
{
    bool stands_for_something = false;
    const struct offer *found;

    for (size_t i = first; i < first + n; i++) {
        if (strcmp(aliases->at[i].name, aliases->at[i].model) == 0)
            return 0;
        stands_for_something |= offers_of(list, aliases->at[i].model, 1, &found) != 0;
    }
    return stands_for_something ? offers_named(list, aliases->at[first].name, list->len, offers)
                                : 0;
}

static void aliases_json(struct view *view, const struct aliases *aliases,
                         const struct offers *list)
{
    struct buf *out = &view->out;
    const struct offer *found;
    size_t n;

    emit_array(out, "aliases");
    for (size_t first = 0; first < aliases->len; first += n) {
        size_t hidden;

        n = rows_of(aliases, first);
        hidden = hidden_by(aliases, first, n, list, &found);
        emit_object(out, NULL);
        emit_text(out, "name", aliases->at[first].name);
        emit_array(out, "hides_model_of");
        for (size_t i = 0; i < hidden; i++)
            emit_text(out, NULL, found[i].node);
        emit_end_array(out);
        emit_array(out, "models");
        for (size_t i = first; i < first + n; i++) {
            emit_object(out, NULL);
            emit_text(out, "id", aliases->at[i].model);
            emit_uint(out, "nodes_total",
                      offers_of(list, aliases->at[i].model, list->len, &found));
            emit_end_object(out);
        }
        emit_end_array(out);
        emit_end_object(out);
    }
    emit_end_array(out);
}

static void show_aliases(struct view *view, const struct aliases *aliases,
                         const struct offers *list)
{
    static const struct column columns[] = {{"ALIAS", false, 8, 24, 0},
                                            {"MODEL", false, 8, 24, 0},
                                            {"NODES", true, 0, 0, 0},
                                            {"HIDES", false, 6, 16, 0}};
    const struct offer *found;
    struct table table;
    size_t n;

    if (aliases->len == 0)
        return;
    table_init(&table, columns, ARRAY_LEN(columns));
    for (size_t first = 0; first < aliases->len; first += n) {
        struct buf hides = BUF_INIT;
        size_t hidden;

        n = rows_of(aliases, first);
        hidden = hidden_by(aliases, first, n, list, &found);
        for (size_t i = 0; i < hidden; i++)
            buf_printf(&hides, "%s%s", i == 0 ? "" : " ", found[i].node);
        for (size_t i = first; i < first + n; i++) {
            size_t nodes = offers_of(list, aliases->at[i].model, list->len, &found);

            table_text(&table, &view->style, TONE_PLAIN, aliases->at[i].name);
            table_text(&table, &view->style, TONE_PLAIN, aliases->at[i].model);
            table_printf(&table, nodes == 0 ? TONE_WARN : TONE_PLAIN, "%zu", nodes);
            table_text(&table, &view->style, TONE_WARN, i == first ? buf_cstr(&hides) : "");
        }
        buf_finish(&hides);
    }
    buf_str(&view->out, "\n");
    table_render(&table, &view->style, &view->out);
    table_finish(&table);
}

void show_models(struct view *view)
{
    static const struct column columns[] = {
        {"MODEL", false, 12, 24, 0}, {"UP", true, 0, 0, 0},      {"LOADED", true, 0, 0, 2},
        {"SLOTS", true, 0, 0, 0},    {"CONTEXT", true, 0, 0, 1}, {"ALIAS OF", false, 8, 12, 3},
        {"NODES", false, 6, 16, 0}};
    struct aliases aliases = {0};
    struct offers list = {0};
    struct entry *entries;
    struct table table;
    size_t len = 0;

    table_init(&table, columns, ARRAY_LEN(columns));
    collect(&list, view->board);
    if (list.len != 0)
        qsort(list.at, list.len, sizeof(*list.at), by_name);
    if (!read_aliases(&aliases, view->board))
        list.failed = true;
    entries = reallocarray(NULL, list.len + aliases.len + 1, sizeof(*entries));
    if (entries == NULL)
        list.failed = true;
    else
        len = make_entries(entries, &list, &aliases, scoreboard_max_nodes(view->board));
    if (view->json) {
        emit_object(&view->out, NULL);
        emit_array(&view->out, "models");
    }
    for (size_t i = 0; i < len; i++) {
        struct sum sum = sum_up(entries[i].offer, entries[i].n);

        if (view->json)
            model_json(view, &entries[i], &sum);
        else
            model_row(view, &table, &entries[i], &sum);
    }
    if (view->json) {
        emit_end_array(&view->out);
        aliases_json(view, &aliases, &list);
        emit_end_object(&view->out);
    } else {
        if (len == 0)
            buf_str(&view->out, "No model is served.\n");
        else
            table_render(&table, &view->style, &view->out);
        show_aliases(view, &aliases, &list);
    }
    for (size_t i = 0; i < len; i++)
        free(entries[i].own);
    if (list.failed)
        view->out.failed = true;
    table_finish(&table);
    free(entries);
    free(aliases.at);
    free(list.at);
}
