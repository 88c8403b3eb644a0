/* load_reporter.c - sends load reports on change and regularly. */
#include "node/report/load_reporter.h"

static void on_due(struct timer *timer)
{
    struct pacer *pacer = CONTAINER_OF(timer, struct pacer, timer);
    unsigned changes = pacer->changes;

    pacer->changes = 0;
    pacer->sent_mono_us = loop_now_us(pacer->agent->loop);
    timer_start(pacer->agent->loop, &pacer->timer, pacer->interval_us, on_due);
    pacer->send(pacer, changes);
}

static void on_change(struct agent_listener *listener, unsigned changes)
{
    struct pacer *pacer = CONTAINER_OF(listener, struct pacer, listener);
    uint64_t now = loop_now_us(pacer->agent->loop);
    uint64_t due = pacer->sent_mono_us + PACER_MIN_GAP_US;

    changes &= AGENT_LOAD_CHANGED | AGENT_MODELS_CHANGED;
    if (changes == 0)
        return;
    if (pacer->changes == 0)
        timer_start(pacer->agent->loop, &pacer->timer, due > now ? due - now : 0, on_due);
    pacer->changes |= changes;
}

void pacer_start(struct pacer *pacer, struct agent *agent, uint64_t interval_us,
                 void (*send)(struct pacer *pacer, unsigned changes))
{
    pacer_stop(pacer);
    pacer->agent = agent;
    pacer->interval_us = interval_us;
    pacer->send = send;
    pacer->changes = 0;
    pacer->sent_mono_us = loop_now_us(agent->loop);
    pacer->listener.on_change = on_change;
    agent_listen(agent, &pacer->listener);
    timer_start(agent->loop, &pacer->timer, interval_us, on_due);
}

void pacer_stop(struct pacer *pacer)
{
    if (!pacer->listener.listening)
        return;
    agent_unlisten(pacer->agent, &pacer->listener);
    timer_stop(pacer->agent->loop, &pacer->timer);
}
