/* load_reporter.c - sends load reports on change and regularly. */
#include "node/report/load_reporter.h"

static void on_due(struct timer *timer)
{
    struct load_reporter *load_reporter = CONTAINER_OF(timer, struct load_reporter, timer);
    unsigned changes = load_reporter->changes;

    load_reporter->changes = 0;
    load_reporter->sent_mono_us = loop_now_us(load_reporter->agent->loop);
    timer_start(load_reporter->agent->loop, &load_reporter->timer, load_reporter->interval_us,
                on_due);
    load_reporter->send(load_reporter, changes);
}

static void on_change(struct agent_listener *listener, unsigned changes)
{
    struct load_reporter *load_reporter =
        CONTAINER_OF(listener, struct load_reporter, listener);
    uint64_t now = loop_now_us(load_reporter->agent->loop);
    uint64_t due = load_reporter->sent_mono_us + LOAD_REPORTER_MIN_GAP_US;

    changes &= AGENT_LOAD_CHANGED | AGENT_MODELS_CHANGED;
    if (changes == 0)
        return;
    if (load_reporter->changes == 0)
        timer_start(load_reporter->agent->loop, &load_reporter->timer,
                    due > now ? due - now : 0, on_due);
    load_reporter->changes |= changes;
}

void load_reporter_start(struct load_reporter *load_reporter, struct agent *agent,
                         uint64_t interval_us,
                         void (*send)(struct load_reporter *load_reporter, unsigned changes))
{
    load_reporter_stop(load_reporter);
    load_reporter->agent = agent;
    load_reporter->interval_us = interval_us;
    load_reporter->send = send;
    load_reporter->changes = 0;
    load_reporter->sent_mono_us = loop_now_us(agent->loop);
    load_reporter->listener.on_change = on_change;
    agent_listen(agent, &load_reporter->listener);
    timer_start(agent->loop, &load_reporter->timer, interval_us, on_due);
}

void load_reporter_stop(struct load_reporter *load_reporter)
{
    if (!load_reporter->listener.listening)
        return;
    agent_unlisten(load_reporter->agent, &load_reporter->listener);
    timer_stop(load_reporter->agent->loop, &load_reporter->timer);
}
