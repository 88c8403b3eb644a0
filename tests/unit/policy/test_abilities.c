/* test_abilities.c - what requests need, and which node answers to it best. */
#include "policy/route/abilities.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/text/json.h"

static struct abilities_need read_body(const char *body)
{
    struct abilities_need need = {0};
    struct json_value root;

    cr_assert_eq(json_check(&root, body, strlen(body), NULL), 0, "%s", body);
    abilities_read(&need, &root);
    return need;
}

static uint32_t flags(const char *body)
{
    return read_body(body).flags;
}

#define BIT(name) ABILITY_BIT(ABILITY_##name)

Test(abilities, every_api_s_word_for_the_length_of_the_output_is_read)
{
    cr_expect_eq(read_body("{\"max_tokens\":600}").output_tokens, 600);
    cr_expect_eq(read_body("{\"max_completion_tokens\":7}").output_tokens, 7);
    cr_expect_eq(read_body("{\"max_output_tokens\":8}").output_tokens, 8);
    cr_expect_eq(read_body("{\"n_predict\":9}").output_tokens, 9);
    cr_expect_eq(read_body("{\"options\":{\"num_predict\":10}}").output_tokens, 10);
    cr_expect_eq(read_body("{\"max_tokens\":5,\"max_completion_tokens\":6}").output_tokens, 6);
    cr_expect_eq(read_body("{\"options\":{\"num_predict\":-1}}").output_tokens, 0, "no limit");
    cr_expect_eq(read_body("{\"max_tokens\":\"9\"}").output_tokens, 0);
    cr_expect_eq(read_body("{\"max_tokens\":null}").output_tokens, 0);
    cr_expect_eq(read_body("{}").output_tokens, 0);
}

Test(abilities, the_context_that_a_request_wants_is_ollamas_option)
{
    cr_expect_eq(read_body("{\"options\":{\"num_ctx\":8192}}").wanted_context, 8192);
    cr_expect_eq(read_body("{\"options\":{\"num_ctx\":\"8192\"}}").wanted_context, 0);
    cr_expect_eq(read_body("{\"options\":{\"num_ctx\":-1}}").wanted_context, 0);
    cr_expect_eq(read_body("{\"options\":{}}").wanted_context, 0);
    cr_expect_eq(read_body("{\"num_ctx\":8192}").wanted_context, 0);
    cr_expect_eq(read_body("{\"options\":null}").wanted_context, 0);
}

Test(abilities, tools_are_needed_where_there_are_some)
{
    cr_expect_eq(flags("{\"tools\":[{\"type\":\"function\"}]}"), BIT(TOOLS));
    cr_expect_eq(flags("{\"functions\":[{\"name\":\"f\"}]}"), BIT(TOOLS));
    cr_expect_eq(flags("{\"tools\":[],\"tool_choice\":\"none\"}"), 0);
    cr_expect_eq(flags("{\"tools\":null}"), 0);
}

Test(abilities, a_grammar_is_needed_where_the_output_is_bound)
{
    cr_expect_eq(flags("{\"response_format\":{\"type\":\"json_schema\"}}"), BIT(GRAMMAR));
    cr_expect_eq(flags("{\"response_format\":{\"type\":\"json_object\"}}"), BIT(GRAMMAR));
    cr_expect_eq(flags("{\"response_format\":{\"type\":\"text\"}}"), 0);
    cr_expect_eq(flags("{\"format\":\"json\"}"), BIT(GRAMMAR));
    cr_expect_eq(flags("{\"format\":\"\"}"), 0);
    cr_expect_eq(flags("{\"format\":{\"type\":\"object\"}}"), BIT(GRAMMAR));
    cr_expect_eq(flags("{\"grammar\":\"root ::= x\"}"), BIT(GRAMMAR));
    cr_expect_eq(flags("{\"text\":{\"format\":{\"type\":\"json_schema\"}}}"), BIT(GRAMMAR));
    cr_expect_eq(flags("{\"text\":{\"format\":{\"type\":\"text\"}}}"), 0);
    cr_expect_eq(flags("{\"guided_json\":{\"type\":\"object\"}}"), BIT(GRAMMAR));
    cr_expect_eq(flags("{\"output_config\":{\"format\":{\"type\":\"json_schema\"}}}"),
                 BIT(GRAMMAR));
    cr_expect_eq(flags("{\"output_config\":{\"effort\":\"low\"}}"), 0);
}

/* 4000 bytes of text, of which an estimate makes 1000 tokens, and 600 are wanted. */
static struct abilities_need example(void)
{
    struct abilities_need need = {.output_tokens = 600};

    abilities_prompt(&need, 4000, 1000);
    return need;
}

static enum abilities_rank rank(uint32_t context_tokens)
{
    struct abilities_known known = {.context_tokens = context_tokens};
    struct abilities_need need = example();

    return abilities_rank(&known, &need);
}

Test(abilities, a_context_holds_cuts_is_doubtful_or_too_small)
{
    cr_expect_eq(rank(0), ABILITIES_HOLDS, "it is not known");
    cr_expect_eq(rank(1600), ABILITIES_HOLDS);
    cr_expect_eq(rank(1599), ABILITIES_CUTS);
    cr_expect_eq(rank(1000), ABILITIES_CUTS);
    cr_expect_eq(rank(999), ABILITIES_DOUBTFUL);
    cr_expect_eq(rank(500), ABILITIES_DOUBTFUL, "4000 / 8 tokens are the least");
    cr_expect_eq(rank(499), ABILITIES_LACKS);
}

Test(abilities, a_context_with_room_for_a_usual_answer_is_tight_for_a_longer_one)
{
    struct abilities_need need = {.output_tokens = 32000};
    struct abilities_known known = {0};

    abilities_prompt(&need, 4000, 1000);
    known.context_tokens = 33000;
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_HOLDS);
    known.context_tokens = 32999;
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_TIGHT);
    known.context_tokens = 1000 + 4096;
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_TIGHT);
    known.context_tokens = 1000 + 4095;
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_CUTS);
    need.output_tokens = 4095;
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_HOLDS, "it allows no longer one");
}

Test(abilities, a_prompt_that_an_engine_counted_leaves_no_doubt)
{
    struct abilities_known known = {.context_tokens = 3009};
    struct abilities_need need = example();

    abilities_counted(&need, 3010);
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_LACKS);
    known.context_tokens = 3010;
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_CUTS);
    known.context_tokens = 3610;
    cr_expect_eq(abilities_rank(&known, &need), ABILITIES_HOLDS);
}

Test(abilities, a_small_estimate_is_no_lower_bound_that_is_larger)
{
    struct abilities_need need = {0};

    abilities_prompt(&need, 8000, 10); /* white space, say */
    cr_expect_eq(need.least_tokens, 10);
}

Test(abilities, a_lack_matters_to_the_requests_that_need_it)
{
    struct abilities_known blind = {.lacks = BIT(VISION), .context_tokens = 4096};
    struct abilities_need need = example();

    cr_expect_eq(abilities_rank(&blind, &need), ABILITIES_HOLDS);
    need.flags = BIT(VISION) | BIT(TOOLS);
    cr_expect_eq(abilities_rank(&blind, &need), ABILITIES_LACKS);
    need.flags = BIT(TOOLS);
    cr_expect_eq(abilities_rank(&blind, &need), ABILITIES_HOLDS);
}

Test(abilities, where_none_may_hold_it_the_largest_context_is_first)
{
    struct abilities_known small = {.context_tokens = 600}, large = {.context_tokens = 900};
    struct abilities_known tiny = {.context_tokens = 100}, unknown = {0};
    struct abilities_known cut = {.context_tokens = 1100}, less_cut = {.context_tokens = 1500};
    struct abilities_need need = example();

    cr_expect_lt(abilities_score(&large, &need), abilities_score(&small, &need));
    cr_expect_lt(abilities_score(&small, &need), abilities_score(&tiny, &need));
    cr_expect_lt(abilities_score(&unknown, &need), abilities_score(&large, &need));
    cr_expect_eq(abilities_score(&cut, &need), abilities_score(&less_cut, &need),
                 "both serve it");
    cr_expect_lt(abilities_score(&large, &need), ABILITIES_SCORE(ABILITIES_LACKS));
    cr_expect_geq(abilities_score(&tiny, &need), ABILITIES_SCORE(ABILITIES_LACKS));
}

Test(abilities, an_ollama_loads_the_model_anew_for_another_context)
{
    struct abilities_known known = {.context_tokens = 4096};

    cr_expect_not(abilities_reloads(&known, 8192), "no Ollama");
    cr_expect_eq(abilities_context(&known, 8192), 4096);
    known.largest_context = ABILITIES_ANY_CONTEXT;
    cr_expect(abilities_reloads(&known, 8192));
    cr_expect(abilities_reloads(&known, 2048));
    cr_expect_not(abilities_reloads(&known, 4096));
    cr_expect_not(abilities_reloads(&known, 0), "any context will do");
    cr_expect_eq(abilities_context(&known, 8192), 8192);
    cr_expect_eq(abilities_context(&known, 0), 4096);
    known.largest_context = 4096;
    cr_expect_not(abilities_reloads(&known, 8192), "the model has no more");
    cr_expect_eq(abilities_context(&known, 8192), 4096);
    known.context_tokens = 0;
    cr_expect_not(abilities_reloads(&known, 2048), "an old Ollama does not say");
}

Test(abilities, the_context_of_an_ollama_bars_no_request)
{
    struct abilities_known small = {.context_tokens = 4096,
                                    .largest_context = ABILITIES_ANY_CONTEXT};
    struct abilities_known large = {.context_tokens = 32768,
                                    .largest_context = ABILITIES_ANY_CONTEXT};
    struct abilities_need need = {.prompt_tokens = 20000, .least_tokens = 10000};

    cr_expect_eq(abilities_rank(&small, &need), ABILITIES_DOUBTFUL, "the prompt is cut there");
    cr_expect_eq(abilities_rank(&large, &need), ABILITIES_HOLDS);
    need.wanted_context = 32768;
    cr_expect_eq(abilities_rank(&small, &need), ABILITIES_HOLDS);
    need.wanted_context = 8192;
    cr_expect_eq(abilities_rank(&large, &need), ABILITIES_DOUBTFUL);
    cr_expect_eq(abilities_score(&small, &need), abilities_score(&large, &need));
    small.largest_context = 4096;
    cr_expect_gt(abilities_score(&small, &need), abilities_score(&large, &need));
}
