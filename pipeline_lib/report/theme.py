"""The page's style and its little script, as text: the page is one file and loads nothing."""

from __future__ import annotations

STYLE = """
:root{--bg:#fbfbfa;--card:#fff;--ink:#1d1d1f;--soft:#5f6368;--line:#e2e2df;--grid:#ececea;--accent:#2a62c9;
--s1:#2a78d6;--s2:#e0632a;--s3:#179a72;--s4:#8a5cd1;--s5:#b8860b;--good:#179a72;--bad:#d2493a;--chip:#f1f1ee}
@media(prefers-color-scheme:dark){:root:not([data-theme=light]){--bg:#131314;--card:#1c1c1e;--ink:#ececee;
--soft:#a2a5ab;--line:#333336;--grid:#29292c;--accent:#8ab4f8;--s1:#5b9cf0;--s2:#f2854f;--s3:#3cbf95;--s4:#b08cf0;
--s5:#e0b040;--good:#3cbf95;--bad:#f07264;--chip:#29292c}}
:root[data-theme=dark]{--bg:#131314;--card:#1c1c1e;--ink:#ececee;--soft:#a2a5ab;--line:#333336;--grid:#29292c;
--accent:#8ab4f8;--s1:#5b9cf0;--s2:#f2854f;--s3:#3cbf95;--s4:#b08cf0;--s5:#e0b040;--good:#3cbf95;--bad:#f07264;
--chip:#29292c}
*{box-sizing:border-box}[hidden]{display:none!important}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 80px}
header h1{font-size:30px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
header p,.note{color:var(--soft);margin:0 0 14px}.scroll+.note,.row+.note,[data-tabs]+.note{margin-top:12px;font-size:13.5px}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0 24px;font-size:14px}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{margin:0 0 44px;scroll-margin-top:16px}
h2{font-size:20px;margin:0 0 4px}h3{font-size:15px;margin:0 0 8px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:0 0 36px}
.card,.panel{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.card b{display:block;font-size:26px;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:13px}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(310px,1fr));gap:14px}
.row.two{grid-template-columns:repeat(auto-fit,minmax(400px,1fr))}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:7px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{color:var(--soft);font-weight:550;font-size:13px}
td small{color:var(--soft)}td.best b{color:var(--s3)}
td code,.hash{font:12px ui-monospace,Menlo,Consolas,monospace;color:var(--soft)}
.tabs{display:flex;gap:6px;margin:8px 0 10px}
button{font:inherit;font-size:13px;border:1px solid var(--line);background:var(--card);color:var(--ink);
border-radius:7px;padding:4px 10px;cursor:pointer}
button[aria-pressed=true]{border-color:var(--accent);color:var(--accent)}
#theme{float:right}
figure{margin:0;position:relative}figure.bars{max-width:560px}figure.wide{max-width:820px}svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}svg .name,svg .value{font-size:12px;fill:var(--ink)}
.grid{stroke:var(--grid)}.axis{stroke:var(--soft);stroke-opacity:.55}.cross{stroke:var(--soft);opacity:0}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round}.raw{fill:none;stroke-width:1;opacity:.28}
path.s1{stroke:var(--s1)}path.s2{stroke:var(--s2)}path.s3{stroke:var(--s3)}path.s4{stroke:var(--s4)}path.s5{stroke:var(--s5)}
rect.s1,i.s1{fill:var(--s1);background:var(--s1)}rect.s2,i.s2{fill:var(--s2);background:var(--s2)}
rect.s3,i.s3{fill:var(--s3);background:var(--s3)}rect.s4,i.s4{fill:var(--s4);background:var(--s4)}
rect.s5,i.s5{fill:var(--s5);background:var(--s5)}
rect.good{fill:var(--good)}rect.bad{fill:var(--bad)}.interval{stroke:var(--ink);stroke-width:1.2;fill:none;opacity:.75}
.mean{stroke:var(--ink);stroke-dasharray:4 4;opacity:.6}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 14px;margin:6px 0 0;padding:0;font-size:12.5px;color:var(--soft)}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
.tip{position:absolute;pointer-events:none;background:var(--card);border:1px solid var(--line);border-radius:6px;
padding:4px 8px;font-size:12px;box-shadow:0 2px 8px #0002;display:none;white-space:nowrap;z-index:2}
.flow{display:flex;flex-direction:column;gap:14px}.lane{display:flex;flex-wrap:wrap;align-items:stretch;gap:8px}
.lane h3{flex:0 0 108px;margin:8px 0 0;color:var(--soft);font-size:13px;font-weight:550}
.stage{text-align:left;min-width:132px;max-width:210px;padding:8px 10px;line-height:1.35}
.stage b{display:block;font-weight:600;font-size:13px}.stage span{display:block;color:var(--soft);font-size:12px;overflow:hidden;text-overflow:ellipsis}
.detail{margin-top:12px;min-height:92px}.detail dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:6px 0 0;font-size:13px}
.detail dt{color:var(--soft)}.detail dd{margin:0;overflow-wrap:anywhere}
.sample{border-top:1px solid var(--line);padding:10px 0}.sample:first-child{border-top:0}
.sample .q{font-weight:600;font-size:14px;overflow-wrap:anywhere}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:14px;margin-top:6px}@media(max-width:700px){.pair{grid-template-columns:1fr}}
pre{margin:4px 0 0;white-space:pre-wrap;overflow-wrap:anywhere;font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace;
background:var(--chip);border-radius:7px;padding:8px 10px;max-height:260px;overflow:auto}
.chip{display:inline-block;font-size:12px;border-radius:20px;padding:1px 9px;background:var(--chip);color:var(--soft)}
.chip.ok{color:var(--good)}.chip.no{color:var(--bad)}.empty{color:var(--soft)}
"""

SCRIPT = """
const q=(s,r=document)=>[...r.querySelectorAll(s)];
document.getElementById('theme').onclick=()=>{const d=document.documentElement,
dark=d.dataset.theme?d.dataset.theme==='dark':matchMedia('(prefers-color-scheme: dark)').matches;
d.dataset.theme=dark?'light':'dark'};
q('[data-tabs]').forEach(box=>{const buttons=q('.tabs button',box),panes=q('[data-pane]',box);
const show=name=>{buttons.forEach(b=>b.setAttribute('aria-pressed',b.dataset.show===name));
panes.forEach(p=>p.hidden=p.dataset.pane!==name)};
buttons.forEach(b=>b.onclick=()=>show(b.dataset.show));if(buttons[0])show(buttons[0].dataset.show)});
q('.stage').forEach(b=>b.onclick=()=>{q('.stage').forEach(o=>o.setAttribute('aria-pressed',o===b));
const t=document.getElementById('stage-'+b.dataset.stage);
document.getElementById('detail').replaceChildren(t.content.cloneNode(true))});
q('.stage')[0]?.click();
q('figure.chart[data-x0]').forEach(f=>{const svg=f.querySelector('svg'),cross=f.querySelector('.cross'),
tip=document.createElement('div');tip.className='tip';f.append(tip);
const lines=q('.data',f).map(g=>({name:g.dataset.name,slot:g.dataset.slot,
points:g.dataset.points.split(';').map(p=>p.split(',').map(Number))}));
const x0=+f.dataset.x0,x1=+f.dataset.x1,left=+f.dataset.left,right=+f.dataset.right;
svg.onmousemove=e=>{const box=svg.getBoundingClientRect(),k=svg.viewBox.baseVal.width/box.width,
at=x0+((e.clientX-box.left)*k-left)/(right-left)*(x1-x0);
const near=p=>p.reduce((a,b)=>Math.abs(b[0]-at)<Math.abs(a[0]-at)?b:a);
const step=near(lines[0].points)[0],x=left+(step-x0)/(x1-x0)*(right-left);
cross.setAttribute('x1',x);cross.setAttribute('x2',x);cross.style.opacity=.5;tip.style.display='block';
tip.textContent='step '+step+' · '+lines.map(l=>(lines.length>1?l.name+' ':'')+near(l.points)[1]).join(' · ');
tip.style.left=Math.min(x/k+8,box.width-tip.offsetWidth)+'px';tip.style.top='4px'};
svg.onmouseleave=()=>{cross.style.opacity=0;tip.style.display='none'}});
"""
