/* test_spec.c - the settings of the simulated engine as text. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/error.h"
#include "sim/model/sim_spec.h"

static struct sim_spec good(const char *text)
{
    struct sim_spec spec;
    struct error err = {0};

    cr_assert_eq(sim_spec_parse(&spec, text, &err), 0, "%s", err.text);
    return spec;
}

static void bad(const char *text, const char *words)
{
    struct sim_spec spec;
    struct error err = {0};

    cr_assert_eq(sim_spec_parse(&spec, text, &err), DRV_EINVAL, "%s was taken", text);
    cr_assert_str_eq(err.text, words);
    cr_assert_eq(strchr(err.text, '\n'), NULL);
}

Test(sim_spec, nothing_given_is_the_defaults)
{
    struct sim_spec spec = good("");

    cr_assert_eq(spec.model.slots, 4);
    cr_assert_float_eq(spec.model.prefill_tokens_per_s, 8000, 1e-9);
    cr_assert_float_eq(spec.model.base_us, 12000, 1e-9);
    cr_assert_float_eq(spec.model.slope_us, 600, 1e-9);
    cr_assert_eq(spec.model.cache, SIM_CACHE_BLOCK);
    cr_assert_eq(spec.model.block_tokens, 512);
    cr_assert_eq(spec.model.cache_blocks, 512, "262,144 tokens");
    cr_assert_eq(spec.mean_tokens, 256);
    cr_assert_not(spec.to_limit);
    cr_assert_eq(spec.fault.kind, SIM_FAULT_NONE);
    cr_assert_eq(spec.n_models, 3);
    cr_assert_str_eq(spec.models[0].id, "sim");
    cr_assert_str_eq(spec.models[2].id, "sim-embed");
    cr_assert_eq(spec.models[0].context, 131072);
}

Test(sim_spec, every_key_lands_where_it_belongs)
{
    struct sim_spec spec = good(
        "slots=2,prefill=100,base_ms=5,slope_ms=0.5,chunk=64,cache=slot,ctx=100,"
        "tokens=7,length=limit,load_ms=9,seed=3,name=a,fail=die@4,fail_after=2,models=x;y@50,"
        "model=z@60@70");

    cr_assert_eq(spec.model.slots, 2);
    cr_assert_float_eq(spec.model.base_us, 5000, 1e-9);
    cr_assert_eq(spec.model.chunk_tokens, 64);
    cr_assert_eq(spec.model.cache, SIM_CACHE_SLOT);
    cr_assert_eq(spec.model.block_tokens, 16, "the slot cache compares finely");
    cr_assert_eq(spec.mean_tokens, 7);
    cr_assert(spec.to_limit);
    cr_assert_eq(spec.load_ms, 9);
    cr_assert_eq(spec.seed, 3);
    cr_assert_str_eq(spec.name, "a");
    cr_assert_eq(spec.fault.kind, SIM_FAULT_DIE);
    cr_assert_eq(spec.fault_at, 4);
    cr_assert_eq(spec.fault.after_tokens, 2);
    cr_assert_eq(spec.n_models, 3);
    cr_assert_eq(spec.models[0].context, 100);
    cr_assert_eq(spec.models[1].context, 50);
    cr_assert_str_eq(spec.models[2].id, "z");
    cr_assert_eq(spec.models[2].context, 60);
    cr_assert_eq(spec.models[2].load_ms, 70);
}

Test(sim_spec, speed_divides_every_duration)
{
    struct sim_spec spec = good("speed=10,rate=50,spread=4,load_ms=100,model=m@64@200");

    cr_assert_float_eq(spec.model.prefill_tokens_per_s, 80000, 1e-6);
    cr_assert_float_eq(spec.model.base_us, 1200, 1e-9);
    cr_assert_float_eq(spec.model.slope_us, 60, 1e-9);
    cr_assert_float_eq(spec.model.rate, 500, 1e-9);
    cr_assert_eq(spec.model.spread, 4);
    cr_assert_eq(spec.load_ms, 10);
    cr_assert_eq(spec.models[0].load_ms, 20);
}

Test(sim_spec, the_size_of_the_cache_is_in_tokens_or_blocks)
{
    cr_assert_eq(good("cache_tokens=4096,block=100").model.cache_blocks, 40);
    cr_assert_eq(good("cache_blocks=7").model.cache_blocks, 7);
}

Test(sim_spec, errors_name_the_key_and_what_is_wanted)
{
    bad("slots=0", "slots: \"0\" is not a whole number from 1 to 65536");
    bad("slots=2.5", "slots: \"2.5\" is not a whole number from 1 to 65536");
    bad("base_ms=fast", "base_ms: \"fast\" is not a number from 0 to 60000");
    bad("prefill=nan", "prefill: \"nan\" is not a number from 1 to 1000000000");
    bad("slots=4,solts=5", "solts: no such key");
    bad("slots", "slots: has no value");
    bad("slots=", "slots: has no value");
    bad("slots=4,slots=5", "slots: is there twice");
    bad("slots=4,", ": no such key");
    bad("cache=big", "cache: \"big\" is none of block, slot, none");
    bad("length=long", "length: \"long\" is none of natural, limit");
    bad("fail=explode@3", "fail: \"explode\" is none of " SIM_FAULT_NAMES);
    bad("fail=die@0", "fail: \"0\" is not a whole number from 1 to 1000000000");
    bad("fail_after=3", "fail_after: needs fail");
    bad("spread=3", "spread: needs rate");
    bad("models=a;;b", "models: a model has no name");
    bad("models=a;a", "models: \"a\" is there twice");
    bad("model=a@8", "model: \"8\" is not a whole number from 16 to 1000000000");
    bad("model=a\"b", "model: a model name holds byte 0x22");
    bad("cache_tokens=9,cache_blocks=9",
        "cache_blocks: cache_tokens is given too; one of them is enough");
}
