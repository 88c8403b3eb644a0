/* model_shares.c - how many nodes each model has, and how many of these are UP. */
#include "health/model_shares.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "policy/fault/ejection.h"

#define FIRST_CAP 64u

void model_shares_finish(struct model_shares *shares)
{
    free(shares->at);
    *shares = (struct model_shares){0};
}

void model_shares_clear(struct model_shares *shares)
{
    if (shares->cap != 0)
        memset(shares->at, 0, shares->cap * sizeof(*shares->at));
    shares->count = 0;
    shares->failed = false;
}

/* The place of this model, or the free one for it.  There is a free place. */
static struct model_share *place_of(const struct model_shares *shares, const char *id)
{
    size_t at = (size_t)hash_text(id) & (shares->cap - 1);

    while (shares->at[at].id != NULL && strcmp(shares->at[at].id, id) != 0)
        at = (at + 1) & (shares->cap - 1);
    return &shares->at[at];
}

static bool grow(struct model_shares *shares)
{
    struct model_shares grown = {.cap = shares->cap == 0 ? FIRST_CAP : 2 * shares->cap,
                                 .count = shares->count};

    grown.at = calloc(grown.cap, sizeof(*grown.at));
    if (grown.at == NULL)
        return false;
    for (size_t i = 0; i < shares->cap; i++) {
        if (shares->at[i].id != NULL)
            *place_of(&grown, shares->at[i].id) = shares->at[i];
    }
    free(shares->at);
    *shares = grown;
    return true;
}

/* A node that drains, or has not yet joined, is no node of a model here. */
static bool is_counted(enum node_state state)
{
    return state == NODE_UP || state == NODE_PROBATION || state == NODE_EJECTED ||
           state == NODE_DOWN;
}

void model_shares_add(struct model_shares *shares, const struct node_info *info,
                      enum node_state state)
{
    if (!is_counted(state))
        return;
    for (uint32_t i = 0; i < info->models_count; i++) {
        struct model_share *share;

        if (2 * (shares->count + 1) > shares->cap && !grow(shares)) {
            shares->failed = true;
            return;
        }
        share = place_of(shares, info->models[i].id);
        if (share->id == NULL) {
            share->id = info->models[i].id;
            shares->count++;
        }
        share->total++;
        share->serving += state == NODE_UP;
    }
}

void model_shares_move(struct model_shares *shares, const struct node_info *info,
                       enum node_state from, enum node_state to)
{
    if (is_counted(from) && !shares->failed) {
        for (uint32_t i = 0; i < info->models_count; i++) {
            struct model_share *share = place_of(shares, info->models[i].id);

            share->total--;
            share->serving -= from == NODE_UP;
        }
    }
    model_shares_add(shares, info, to);
}

bool model_shares_allow(const struct model_shares *shares, const struct node_info *info,
                        enum node_state state)
{
    static const struct model_share none;

    if (shares->failed)
        return false;
    for (uint32_t i = 0; i < info->models_count; i++) {
        const struct model_share *share =
            shares->cap == 0 ? &none : place_of(shares, info->models[i].id);
        uint32_t total = share->total - is_counted(state);
        uint32_t serving = share->serving - (state == NODE_UP);

        if (info->models[i].alias_of != 0)
            continue; /* another name of one that is looked at */
        if (!ejection_allowed(serving + 1, total + 1))
            return false;
    }
    return true;
}
