/* sim_text.c - the words of the simulated engine. */
#include "sim/model/sim_text.h"

#include <string.h>
#include <xxhash.h>

#include "base/hash.h"
#include "base/text/buf.h"

#define WORD(s)                            \
    {                                      \
        " " s, " " s, sizeof(s), sizeof(s) \
    }
#define ODD(plain, json)                                 \
    {                                                    \
        plain, json, sizeof(plain) - 1, sizeof(json) - 1 \
    }

/* Words that an English prompt hardly ends with.  The odd ones are here because
 * proxies get them wrong: several bytes a character, and bytes that JSON or SSE must escape. */
static const struct sim_token VOCABULARY[] = {
    WORD("lorem"),
    WORD("ipsum"),
    WORD("dolor"),
    WORD("amet"),
    WORD("consectetur"),
    WORD("adipiscing"),
    WORD("elit"),
    WORD("eiusmod"),
    WORD("tempor"),
    WORD("incididunt"),
    WORD("labore"),
    WORD("dolore"),
    WORD("magna"),
    WORD("aliqua"),
    WORD("enim"),
    WORD("minim"),
    WORD("veniam"),
    WORD("quis"),
    WORD("nostrud"),
    WORD("ullamco"),
    WORD("laboris"),
    WORD("nisi"),
    WORD("aliquip"),
    WORD("commodo"),
    WORD("consequat"),
    WORD("duis"),
    WORD("aute"),
    WORD("irure"),
    WORD("reprehenderit"),
    WORD("voluptate"),
    WORD("velit"),
    WORD("esse"),
    WORD("cillum"),
    WORD("fugiat"),
    WORD("nulla"),
    WORD("pariatur"),
    WORD("excepteur"),
    WORD("sint"),
    WORD("occaecat"),
    WORD("cupidatat"),
    WORD("proident"),
    WORD("sunt"),
    WORD("culpa"),
    WORD("officia"),
    WORD("deserunt"),
    WORD("mollit"),
    WORD("anim"),
    WORD("laborum"),
    WORD("curabitur"),
    WORD("pretium"),
    WORD("tincidunt"),
    WORD("lacus"),
    WORD("gravida"),
    WORD("orci"),
    WORD("odio"),
    WORD("nullam"),
    WORD("varius"),
    WORD("turpis"),
    WORD("pharetra"),
    WORD("eros"),
    WORD("bibendum"),
    WORD("nec"),
    WORD("luctus"),
    WORD("felis"),
    WORD("sollicitudin"),
    WORD("mauris"),
    WORD("vulputate"),
    WORD("pellentesque"),
    WORD("habitant"),
    WORD("morbi"),
    WORD("tristique"),
    WORD("senectus"),
    WORD("netus"),
    WORD("malesuada"),
    WORD("fames"),
    WORD("egestas"),
    WORD("vestibulum"),
    WORD("tortor"),
    WORD("feugiat"),
    WORD("vitae"),
    WORD("ultricies"),
    WORD("leo"),
    WORD("integer"),
    WORD("porta"),
    WORD("sapien"),
    WORD("rutrum"),
    WORD("quam"),
    WORD("viverra"),
    WORD("justo"),
    WORD("lectus"),
    WORD("blandit"),
    WORD("cursus"),
    WORD("risus"),
    WORD("ultrices"),
    WORD("mattis"),
    WORD("augue"),
    WORD("semper"),
    WORD("auctor"),
    WORD("neque"),
    WORD("convallis"),
    WORD("posuere"),
    WORD("sodales"),
    WORD("dignissim"),
    WORD("suspendisse"),
    ODD(" g\xc3\xa9n\xc3\xa9ral", " g\xc3\xa9n\xc3\xa9ral"),
    ODD(" \xe7\xbe\x8a\xe9\xa7\x9d", " \xe7\xbe\x8a\xe9\xa7\x9d"),
    ODD(" \xf0\x9f\xa6\x99", " \xf0\x9f\xa6\x99"),
    ODD(" \"citat\"", " \\\"citat\\\""),
    ODD(",", ","),
    ODD(",", ","),
    ODD(",", ","),
    ODD(".", "."),
    ODD(".", "."),
    ODD(".", "."),
    ODD("\n", "\\n"),
};
#define VOCABULARY_SIZE ((uint32_t)(sizeof(VOCABULARY) / sizeof(VOCABULARY[0])))

/* The same word without the space in front. */
static struct sim_token bare(struct sim_token token)
{
    if (token.text[0] == ' ') {
        token.text++;
        token.json++;
        token.text_len--;
        token.json_len--;
    }
    return token;
}

static uint32_t place_in_vocabulary(const struct sim_text *text, uint32_t index)
{
    uint64_t hash = hash_spread(text->key + (uint64_t)index * HASH_GOLDEN);

    return (uint32_t)(hash % VOCABULARY_SIZE);
}

struct sim_token sim_text_token(const struct sim_text *text, uint32_t index)
{
    struct sim_token token = VOCABULARY[place_in_vocabulary(text, index)];

    return index == 0 && text->bare_first ? bare(token) : token;
}

/* Words without their space have ids of their own, behind the others. */
uint32_t sim_text_id(const struct sim_text *text, uint32_t index)
{
    uint32_t id = place_in_vocabulary(text, index);

    return index == 0 && text->bare_first ? VOCABULARY_SIZE + id : id;
}

struct sim_token sim_text_of_id(uint32_t id)
{
    if (id >= 2 * VOCABULARY_SIZE)
        return (struct sim_token){"", "", 0, 0};
    return id < VOCABULARY_SIZE ? VOCABULARY[id] : bare(VOCABULARY[id - VOCABULARY_SIZE]);
}

uint32_t sim_text_ids(void)
{
    return 2 * VOCABULARY_SIZE;
}

/* Is given[0..len) a beginning of the text?  If so *place is where it ends; in the middle of a
 * token only if `inside`. */
static bool fits(struct sim_place *place, const struct sim_text *text, const char *given,
                 size_t len, bool inside)
{
    uint32_t index;

    for (index = 0; len != 0; index++) {
        struct sim_token token = sim_text_token(text, index);
        size_t n = token.text_len < len ? token.text_len : len;

        if (memcmp(token.text, given, n) != 0)
            return false;
        if (n < token.text_len) {
            if (!inside || token.json_len != token.text_len)
                return false;
            *place = (struct sim_place){*text, index, (uint32_t)n};
            return true;
        }
        given += n;
        len -= n;
    }
    *place = (struct sim_place){*text, index, 0};
    return true;
}

struct sim_place sim_text_find(const char *model, const void *prompt, size_t len,
                               size_t answer_at, bool known)
{
    const char *p = prompt;
    uint64_t hash = XXH3_64bits_withSeed(p, answer_at, XXH3_64bits(model, strlen(model)));
    struct sim_place place;
    size_t at;

    for (at = answer_at; at < len; at++) {
        struct sim_text text = {.key = hash_spread(hash),
                                .bare_first = known && at == answer_at};

        if (fits(&place, &text, p + at, len - at, text.bare_first))
            return place;
        hash = hash_mix(hash, (uint8_t)p[at]);
    }
    return (struct sim_place){
        .text = {.key = hash_spread(hash), .bare_first = known && at == answer_at}};
}

struct sim_token sim_text_first(const struct sim_place *place)
{
    struct sim_token token = sim_text_token(&place->text, place->index);

    token.text += place->skip;
    token.json += place->skip;
    token.text_len = (uint8_t)(token.text_len - place->skip);
    token.json_len = (uint8_t)(token.json_len - place->skip);
    return token;
}

void sim_text_add(struct buf *out, const struct sim_place *place, uint32_t count, bool json)
{
    uint32_t i;

    for (i = 0; i < count; i++) {
        struct sim_token token =
            i == 0 ? sim_text_first(place) : sim_text_token(&place->text, place->index + i);

        if (json)
            buf_add(out, token.json, token.json_len);
        else
            buf_add(out, token.text, token.text_len);
    }
}
