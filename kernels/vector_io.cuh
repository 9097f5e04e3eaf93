// SPDX-License-Identifier: MPL-2.0
//
// Vector loads and stores: values are stored as float, bf16 or f16, moved in accesses of up to 16 bytes, and computed
// in f32.
#pragma once

#include "prims.cuh"

// Load and store N values in one access, at an address aligned to all of them.
template <int N, class T> DEVICE Vector<float, N> load_vector(const T* from) {
    const auto stored = *reinterpret_cast<const Vector<T, N>*>(from);
    Vector<float, N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) values.values[i] = to_float(stored.values[i]);
    return values;
}
template <class T, int N> DEVICE void store_vector(T* to, const Vector<float, N>& values) {
    Vector<T, N> stored;
#pragma unroll
    for (int i = 0; i < N; ++i) stored.values[i] = from_float<T>(values.values[i]);
    *reinterpret_cast<Vector<T, N>*>(to) = stored;
}

template <int N> DEVICE Vector<float, N> filled_vector(float value) {
    Vector<float, N> values;
#pragma unroll
    for (int i = 0; i < N; ++i) values.values[i] = value;
    return values;
}

// Values that one access of `load` or `store` moves.
template <class T, u32 N> constexpr u32 PER_ACCESS = N < PER_16_BYTES<T> ? N : PER_16_BYTES<T>;

// Loads N values from an address aligned to 16 bytes, or to all of them if that is less.
template <u32 N, class T> DEVICE void load(float (&to)[N], const T* from) {
    constexpr u32 M = PER_ACCESS<T, N>;
#pragma unroll
    for (u32 i = 0; i < N; i += M) {
        const auto v = *reinterpret_cast<const Vector<T, M>*>(from + i);
#pragma unroll
        for (u32 j = 0; j < M; ++j) to[i + j] = to_float(v.values[j]);
    }
}

// Stores N values to an address aligned in the same way.
template <u32 N, class T> DEVICE void store(T* to, const float (&from)[N]) {
    constexpr u32 M = PER_ACCESS<T, N>;
#pragma unroll
    for (u32 i = 0; i < N; i += M) {
        Vector<T, M> v;
#pragma unroll
        for (u32 j = 0; j < M; ++j) v.values[j] = from_float<T>(from[i + j]);
        *reinterpret_cast<Vector<T, M>*>(to + i) = v;
    }
}

// Load and store at most `count` of N values: by vectors if the address is `aligned` and all N are wanted, else one by
// one. Values beyond `count` are 0.
template <u32 N, class T> DEVICE void load_some(float (&to)[N], const T* from, u32 count, bool aligned) {
    if (aligned && count >= N) return load(to, from);
#pragma unroll
    for (u32 i = 0; i < N; ++i) to[i] = i < count ? to_float(from[i]) : 0.0f;
}

template <u32 N, class T> DEVICE void store_some(T* to, const float (&from)[N], u32 count, bool aligned) {
    if (aligned && count >= N) return store(to, from);
#pragma unroll
    for (u32 i = 0; i < N; ++i)
        if (i < count) to[i] = from_float<T>(from[i]);
}
