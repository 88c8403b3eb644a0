/* test_model_name.c - names are compared as Ollama compares them. */
#include <criterion/criterion.h>

#include "base/model_name.h"

Test(model_name, parts_that_ollama_adds_and_case_make_no_other_model)
{
    static const char *const same[] = {"Sim",
                                       "sim",
                                       "sim:latest",
                                       "SIM:Latest",
                                       "library/sim",
                                       "Library/sim:latest",
                                       "registry.ollama.ai/library/sim"};

    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        for (size_t k = 0; k < sizeof(same) / sizeof(same[0]); k++)
            cr_expect(model_name_equal(same[i], same[k]), "%s, %s", same[i], same[k]);
}

Test(model_name, another_tag_name_or_user_is_another_model)
{
    static const char *const others[] = {
        "sim:7b", "sim2", "si", "", ":latest", "me/sim", "sim:latest:latest", "sim:lates"};

    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        cr_expect(!model_name_equal("sim", others[i]), "%s", others[i]);
        cr_expect(!model_name_equal(others[i], "sim:latest"), "%s", others[i]);
    }
}

Test(model_name, the_latest_tag_is_at_the_end)
{
    cr_expect_eq(model_name_untagged_len("sim:latest"), 3);
    cr_expect_eq(model_name_untagged_len("sim:LATEST"), 3);
    cr_expect_eq(model_name_untagged_len("sim"), 3);
    cr_expect_eq(model_name_untagged_len("sim:latest2"), 11);
    cr_expect_eq(model_name_untagged_len(":latest"), 7);
}
