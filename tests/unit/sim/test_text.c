/* test_text.c - the text is the same everywhere, and goes on where it was cut. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/text/buf.h"
#include "sim/model/sim_text.h"

#define PROMPT "user\nTell me about llamas.\nassistant\n"

static struct sim_place find(const char *prompt, size_t answer_at, bool known)
{
    return sim_text_find("sim", prompt, strlen(prompt), answer_at, known);
}

/* `count` tokens from a place, as a string of the caller's. */
static void text_of(char *out, size_t cap, const struct sim_place *place, uint32_t count)
{
    struct buf text = BUF_INIT;

    sim_text_add(&text, place, count, false);
    cr_assert_lt(buf_size(&text), cap);
    (void)strlcpy(out, buf_cstr(&text), cap);
    buf_finish(&text);
}

Test(sim_text, depends_on_model_and_prompt_alone)
{
    struct sim_place a = find(PROMPT, strlen(PROMPT), true);
    struct sim_place again = find(PROMPT, strlen(PROMPT), true);
    struct sim_place other = find("user\nTell me about lamas.\nassistant\n",
                                  strlen("user\nTell me about lamas.\nassistant\n"), true);
    struct sim_place model =
        sim_text_find("sim2", PROMPT, strlen(PROMPT), strlen(PROMPT), true);
    char x[4096], y[4096];

    text_of(x, sizeof(x), &a, 40);
    text_of(y, sizeof(y), &again, 40);
    cr_assert_str_eq(x, y);
    text_of(y, sizeof(y), &other, 40);
    cr_assert_str_neq(x, y);
    text_of(y, sizeof(y), &model, 40);
    cr_assert_str_neq(x, y);
}

/* Cuts an answer after each of its first 60 tokens and looks what comes next.  `at`: where the
 * answer begins as far as the caller says. */
static void goes_on_after_every_token(size_t at, bool known)
{
    struct sim_place whole = find(PROMPT, at, known);
    char answer[4096], part[4096], prompt[8192], rest[4096];
    uint32_t k;

    text_of(answer, sizeof(answer), &whole, 80);
    for (k = 0; k < 60; k++) {
        struct sim_place place;

        text_of(part, sizeof(part), &whole, k);
        (void)snprintf(prompt, sizeof(prompt), "%s%s", PROMPT, part);
        place = find(prompt, at, known);
        cr_assert_eq(place.index, k);
        cr_assert_eq(place.skip, 0);
        text_of(rest, sizeof(rest), &place, 80 - k);
        cr_assert_str_eq(rest, answer + strlen(part), "cut after %u tokens", k);
    }
}

Test(sim_text, a_chat_goes_on_after_every_token)
{
    goes_on_after_every_token(strlen(PROMPT), true);
}

Test(sim_text, a_completion_goes_on_although_the_request_does_not_say_where_its_answer_began)
{
    goes_on_after_every_token(0, false);
}

Test(sim_text, a_chat_goes_on_inside_a_token)
{
    size_t at = strlen(PROMPT);
    struct sim_place whole = find(PROMPT, at, true), place;
    char answer[256], prompt[512], rest[256];
    struct sim_token first = sim_text_first(&whole);

    cr_assert_gt(first.text_len, 2, "the first word of this prompt is a short one");
    text_of(answer, sizeof(answer), &whole, 5);
    (void)snprintf(prompt, sizeof(prompt), "%s%.2s", PROMPT, answer);
    place = find(prompt, at, true);
    cr_assert_eq(place.index, 0);
    cr_assert_eq(place.skip, 2);
    text_of(rest, sizeof(rest), &place, 5);
    cr_assert_str_eq(rest, answer + 2);
}

Test(sim_text, a_foreign_beginning_changes_the_text_and_can_be_continued_too)
{
    size_t at = strlen(PROMPT);
    struct sim_place place = find(PROMPT "The", at, true), again;
    char answer[1024], prompt[2048], part[1024], rest[1024];

    cr_assert_eq(place.index, 0);
    text_of(answer, sizeof(answer), &place, 20);
    cr_assert_eq(answer[0] == ' ' || answer[0] == '.' || answer[0] == ',' || answer[0] == '\n',
                 1, "goes on inside the word");
    text_of(part, sizeof(part), &place, 7);
    (void)snprintf(prompt, sizeof(prompt), "%sThe%s", PROMPT, part);
    again = find(prompt, at, true);
    text_of(rest, sizeof(rest), &again, 13);
    cr_assert_str_eq(rest, answer + strlen(part));
}

Test(sim_text, an_answer_in_an_earlier_message_is_not_taken_for_a_beginning)
{
    struct sim_place first = find(PROMPT, strlen(PROMPT), true), second;
    char answer[512], prompt[1024];

    text_of(answer, sizeof(answer), &first, 10);
    (void)snprintf(prompt, sizeof(prompt), "%s%s\nuser\nMore?\nassistant\n", PROMPT, answer);
    second = find(prompt, strlen(prompt), true);
    cr_assert_eq(second.index, 0);
    cr_assert_neq(second.text.key, first.text.key);
}
