// gather_rows.cu, compiled by tools/gather-rows-ptx.sh.
#pragma once

namespace rexit::core::cuda {

constexpr char gather_rows_ptx[] = R"ptx(
.version 6.3
.target sm_75
.address_size 64
.visible .entry rexit_gather_rows(
        .param .u64 rexit_gather_rows_param_0,
        .param .u64 rexit_gather_rows_param_1,
        .param .u64 rexit_gather_rows_param_2,
        .param .u32 rexit_gather_rows_param_3,
        .param .u32 rexit_gather_rows_param_4
)
{
        .reg .pred      %p<3>;
        .reg .b32       %r<17>;
        .reg .b64       %rd<20>;
        ld.param.u32    %r8, [rexit_gather_rows_param_4];
        mov.u32         %r9, %ctaid.x;
        mov.u32         %r1, %ntid.x;
        mov.u32         %r10, %tid.x;
        mad.lo.s32      %r16, %r9, %r1, %r10;
        setp.ge.u32     %p1, %r16, %r8;
        @%p1 bra        LBB0_3;
        ld.param.u32    %r7, [rexit_gather_rows_param_3];
        ld.param.u64    %rd5, [rexit_gather_rows_param_0];
        ld.param.u64    %rd6, [rexit_gather_rows_param_2];
        cvta.to.global.u64      %rd1, %rd6;
        ld.param.u64    %rd7, [rexit_gather_rows_param_1];
        cvta.to.global.u64      %rd2, %rd7;
        cvta.to.global.u64      %rd3, %rd5;
        cvt.u64.u32     %rd4, %r7;
        mov.u32         %r11, %nctaid.x;
        mul.lo.s32      %r12, %r11, %r1;
LBB0_2:
        .pragma "nounroll";
        div.u32         %r13, %r16, %r7;
        mul.wide.u32    %rd8, %r13, 8;
        add.s64         %rd9, %rd1, %rd8;
        ld.global.u64   %rd10, [%rd9];
        mul.lo.s64      %rd11, %rd10, %rd4;
        mul.lo.s32      %r14, %r13, %r7;
        sub.s32         %r15, %r16, %r14;
        cvt.u64.u32     %rd12, %r15;
        add.s64         %rd13, %rd11, %rd12;
        shl.b64         %rd14, %rd13, 4;
        add.s64         %rd15, %rd2, %rd14;
        mul.wide.u32    %rd16, %r16, 16;
        add.s64         %rd17, %rd3, %rd16;
        ld.global.u64   %rd18, [%rd15+8];
        st.global.u64   [%rd17+8], %rd18;
        ld.global.u64   %rd19, [%rd15];
        st.global.u64   [%rd17], %rd19;
        add.s32         %r16, %r16, %r12;
        setp.lt.u32     %p2, %r16, %r8;
        @%p2 bra        LBB0_2;
LBB0_3:
        ret;
}
)ptx";

}  // namespace rexit::core::cuda
