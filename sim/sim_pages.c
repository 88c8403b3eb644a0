/* sim_pages.c - the simulated engine's facts about itself. */
#include "sim/sim_pages.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/text/buf.h"
#include "sim/model/sim_text.h"
#include "sim/sim_engine.h"
#include "sim/sim_request.h"

/* As llama-server calls them. */
static const char *state_name(enum sim_model_state state)
{
    switch (state) {
    case SIM_MODEL_LOADED:
        return "loaded";
    case SIM_MODEL_UNLOADED:
        return "unloaded";
    case SIM_MODEL_LOADING:
        break;
    }
    return "loading";
}

void sim_pages_models(struct buf *out, const struct sim_engine *engine, uint64_t created_s)
{
    const struct sim_spec *spec = sim_engine_spec(engine);
    uint32_t i;

    buf_str(out, "{\"object\":\"list\",\"data\":[");
    for (i = 0; i < spec->n_models; i++) {
        const struct sim_spec_model *model = &spec->models[i];

        buf_printf(out,
                   "%s{\"id\":\"%s\",\"object\":\"model\",\"created\":%" PRIu64
                   ",\"owned_by\":\"drover-sim\",\"simulated\":true,\"max_model_len\":%u,"
                   "\"capabilities\":[%s\"embedding\"],\"status\":{\"value\":\"%s\"},"
                   "\"meta\":{\"n_ctx\":%u,\"load_ms\":%u,\"vocab_type\":0,\"n_vocab\":%u,"
                   "\"n_embd\":0,\"n_params\":0}}",
                   i == 0 ? "" : ",", model->id, created_s, model->context,
                   sim_makes_text(model) ? "\"completion\"," : "",
                   state_name(sim_engine_model_state(engine, i)), model->context,
                   model->load_ms, sim_text_ids());
    }
    buf_str(out, "],\"simulated\":true}");
}

void sim_pages_props(struct buf *out, const struct sim_engine *engine)
{
    const struct sim_spec *spec = sim_engine_spec(engine);

    buf_printf(out,
               "{\"total_slots\":%u,\"default_generation_settings\":{\"n_ctx\":%u},"
               "\"model_alias\":\"%s\",\"build_info\":\"" DROVER_VERSION
               "\",\"simulated\":true}",
               spec->model.slots, spec->models[0].context, spec->models[0].id);
}

static void add_count(struct buf *out, const char *name, const char *type, uint64_t value)
{
    buf_printf(out, "# TYPE llamacpp:%s %s\nllamacpp:%s %" PRIu64 "\n", name, type, name,
               value);
}

static void add_seconds(struct buf *out, const char *name, uint64_t us)
{
    buf_printf(out, "# TYPE llamacpp:%s counter\nllamacpp:%s %.6f\n", name, name,
               (double)us / (double)US_PER_S);
}

void sim_pages_metrics(struct buf *out, const struct sim_engine *engine)
{
    struct sim_status status = sim_engine_status(engine);

    add_count(out, "requests_processing", "gauge", status.running);
    add_count(out, "requests_deferred", "gauge", status.queued);
    add_count(out, "n_decode_total", "counter", status.progress);
    add_count(out, "prompt_tokens_total", "counter", status.prompt_tokens);
    add_seconds(out, "prompt_seconds_total", status.prompt_us);
    add_count(out, "tokens_predicted_total", "counter", status.output_tokens);
    add_seconds(out, "tokens_predicted_seconds_total", status.output_us);
}
