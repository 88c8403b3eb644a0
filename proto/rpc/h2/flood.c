/* flood.c - counting what a peer should not do often. */
#include "proto/rpc/h2/flood.h"

#include <nghttp2/nghttp2.h>

static const struct {
    unsigned limit;
    const char *text;
} kinds[FLOOD_EVENTS] = {
    [FLOOD_PING] = {FLOOD_MAX_PINGS, "too_many_pings"},
    [FLOOD_SETTINGS] = {FLOOD_MAX_SETTINGS, "too_many_settings"},
    [FLOOD_FAULT] = {FLOOD_MAX_FAULTS, "too_many_errors"},
    [FLOOD_REFUSAL] = {FLOOD_MAX_REFUSALS, "too_many_streams"},
};

const char *flood_count(struct flood *f, enum flood_event event, uint64_t now_mono_us)
{
    if (f->rate[event].since_mono_us == 0 ||
        now_mono_us - f->rate[event].since_mono_us > FLOOD_SPAN_US) {
        f->rate[event].since_mono_us = now_mono_us;
        f->rate[event].count = 0;
    }
    return ++f->rate[event].count > kinds[event].limit ? kinds[event].text : NULL;
}

const char *flood_waste(const struct flood *f)
{
    return f->read_bytes / FLOOD_USELESS_RATIO > f->useful_bytes + FLOOD_SPARE_BYTES
               ? "too_many_empty_frames"
               : NULL;
}

enum flood_event flood_of_reset(uint32_t h2_error_code)
{
    switch (h2_error_code) {
    case NGHTTP2_NO_ERROR:
    case NGHTTP2_CANCEL:
        return FLOOD_EVENTS;
    case NGHTTP2_REFUSED_STREAM:
        return FLOOD_REFUSAL;
    default:
        return FLOOD_FAULT;
    }
}
