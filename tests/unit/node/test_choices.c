/* test_choices.c - when an answer of several choices has ended, and what it used. */
#include <criterion/criterion.h>

#include "node/stream/choices.h"

static struct token_usage counts(uint32_t prompt, uint32_t output)
{
    return (struct token_usage){.prompt_tokens = prompt, .output_tokens = output};
}

Test(choices, the_answer_ends_with_the_last_of_those_named_and_expected)
{
    struct choices c;

    choices_init(&c);
    cr_assert_not(choices_all_ended(&c));
    choices_note(&c, 0, true, false);
    cr_assert(choices_all_ended(&c));
    choices_note(&c, 70, false, false);
    cr_assert_not(choices_all_ended(&c));
    choices_note(&c, 70, true, false);
    choices_note(&c, 70, true, false);
    cr_assert(choices_all_ended(&c));
    choices_expect(&c, 3, 1);
    cr_assert_not(choices_all_ended(&c));
    choices_finish(&c);
}

Test(choices, output_after_a_reason_takes_it_back)
{
    struct choices c;

    choices_init(&c);
    choices_note(&c, 0, true, true);
    cr_assert(choices_all_ended(&c));
    choices_note(&c, 0, false, false);
    cr_assert(choices_all_ended(&c), "an empty event says nothing");
    choices_note(&c, 0, false, true);
    cr_assert_not(choices_all_ended(&c));
    cr_assert(choices_all_reasoned(&c), "it had one, if nothing else comes");
    choices_note(&c, 0, true, false);
    cr_assert(choices_all_ended(&c));
    choices_note(&c, 1, false, true);
    cr_assert_not(choices_all_reasoned(&c), "this one had none");
    choices_note(&c, 1, true, true);
    choices_note(&c, 1, false, true);
    cr_assert(choices_all_reasoned(&c));
    choices_expect(&c, 3, 1);
    cr_assert_not(choices_all_reasoned(&c), "one is missing");
    choices_finish(&c);
}

Test(choices, one_report_is_no_sum)
{
    struct token_usage usage = counts(5, 6), sum = {0};
    struct choices c;

    choices_init(&c);
    choices_note(&c, 0, true, false);
    choices_note(&c, 1, true, false);
    choices_usage_apart(&c, &usage);
    cr_assert_not(choices_sum(&c, &sum));
    choices_finish(&c);
}

Test(choices, the_prompt_of_several_choices_counts_once)
{
    struct token_usage usage = counts(5, 6), sum = {0};
    struct choices c;

    choices_init(&c);
    choices_expect(&c, 2, 2);
    for (uint32_t i = 0; i < 4; i++) {
        choices_note(&c, i, true, false);
        choices_usage_apart(&c, &usage);
    }
    cr_assert(choices_sum(&c, &sum));
    cr_assert_eq(sum.prompt_tokens, 10);
    cr_assert_eq(sum.output_tokens, 24);
    choices_finish(&c);
}

Test(choices, running_counts_are_replaced_and_the_count_of_all_replaces_them)
{
    struct token_usage a = counts(5, 1), b = counts(5, 2), all = counts(10, 9), sum = {0};
    struct choices c;

    choices_init(&c);
    choices_expect(&c, 2, 1);
    choices_note(&c, 0, false, false);
    choices_note(&c, 1, false, false);
    choices_usage(&c, 0, &a);
    choices_usage(&c, 1, &a);
    choices_usage(&c, 0, &b);
    cr_assert(choices_sum(&c, &sum));
    cr_assert_eq(sum.output_tokens, 3);
    cr_assert_eq(sum.prompt_tokens, 10);
    choices_usage_apart(&c, &all);
    cr_assert_not(choices_sum(&c, &sum), "the engine has added up itself");
    choices_finish(&c);
}

Test(choices, too_many_are_not_known_to_have_ended)
{
    struct choices c;

    choices_init(&c);
    choices_note(&c, 0, true, false);
    choices_note(&c, CHOICES_MAX, true, false);
    cr_assert_not(choices_all_ended(&c));
    choices_finish(&c);
}
