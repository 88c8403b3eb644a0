/* choices.c - the choices of one answer: which have ended, and the usage of each. */
#include "node/stream/choices.h"

#include <stdlib.h>
#include <string.h>

void choices_init(struct choices *c)
{
    memset(c, 0, sizeof(*c));
    c->per_prompt = 1;
}

void choices_finish(struct choices *c)
{
    free(c->list);
    c->list = NULL;
    c->count = 0;
}

void choices_expect(struct choices *c, uint32_t prompts, uint32_t per_prompt)
{
    c->per_prompt = per_prompt == 0 ? 1 : per_prompt;
    if (prompts == 0)
        prompts = 1;
    c->expected = prompts > CHOICES_MAX / c->per_prompt ? 0 : prompts * c->per_prompt;
}

/* The choice, made when it is new; NULL: it cannot be kept. */
static struct choice_state *find(struct choices *c, uint32_t index)
{
    struct choice_state *grown;
    size_t count;

    if (index < c->count)
        return &c->list[index];
    if (c->failed || index >= CHOICES_MAX) {
        c->failed = true;
        return NULL;
    }
    count = index < 8 ? 8 : (size_t)index * 2;
    grown = realloc(c->list, count * sizeof(*grown));
    if (grown == NULL) {
        c->failed = true;
        return NULL;
    }
    memset(grown + c->count, 0, (count - c->count) * sizeof(*grown));
    c->list = grown;
    c->count = count;
    return &grown[index];
}

void choices_note(struct choices *c, uint32_t index, bool ended, bool output)
{
    struct choice_state *choice = find(c, index);

    if (choice == NULL)
        return;
    if (!choice->named)
        c->named++;
    choice->named = true;
    if (!ended && output && choice->ended) {
        choice->ended = false; /* its reason came too early */
        c->ended--;
    }
    if (!ended || choice->ended)
        return;
    if (!choice->reasoned)
        c->reasoned++;
    choice->reasoned = true;
    choice->ended = true;
    c->ended++;
    c->last_ended = index;
}

static bool are_all(const struct choices *c, uint32_t count)
{
    return !c->failed && count != 0 && count == c->named && count >= c->expected;
}

bool choices_all_ended(const struct choices *c)
{
    return are_all(c, c->ended);
}

bool choices_all_reasoned(const struct choices *c)
{
    return are_all(c, c->reasoned);
}

void choices_usage(struct choices *c, uint32_t index, const struct token_usage *usage)
{
    struct choice_state *choice = find(c, index);

    if (choice == NULL)
        return;
    choice->has_usage = true;
    choice->usage = *usage;
    c->has_inside = true;
}

void choices_usage_apart(struct choices *c, const struct token_usage *usage)
{
    struct choice_state *choice;

    if (c->has_inside) {
        /* The choices had running counts, and this is the count of them all. */
        for (size_t i = 0; i < c->count; i++)
            c->list[i].has_usage = false;
    }
    choice = find(c, c->last_ended);
    if (choice == NULL)
        return;
    choice->has_usage = true;
    choice->usage = *usage;
}

static uint32_t add(uint32_t sum, uint32_t more)
{
    return more > UINT32_MAX - sum ? UINT32_MAX : sum + more;
}

bool choices_sum(const struct choices *c, struct token_usage *sum)
{
    struct token_usage total = {0};
    uint32_t reports = 0;
    size_t prompt_seen = SIZE_MAX; /* the prompt that was counted last */

    for (size_t i = 0; i < c->count; i++) {
        const struct choice_state *choice = &c->list[i];

        if (!choice->has_usage)
            continue;
        reports++;
        total.output_tokens = add(total.output_tokens, choice->usage.output_tokens);
        if (i / c->per_prompt == prompt_seen)
            continue;
        prompt_seen = i / c->per_prompt;
        total.prompt_tokens = add(total.prompt_tokens, choice->usage.prompt_tokens);
        total.cached_prompt_tokens =
            add(total.cached_prompt_tokens, choice->usage.cached_prompt_tokens);
    }
    if (c->failed || reports < 2)
        return false;
    *sum = total;
    return true;
}
