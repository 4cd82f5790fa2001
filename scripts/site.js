const root=document.documentElement,kept=localStorage.getItem('theme');
root.dataset.theme=kept||(matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light');
addEventListener('DOMContentLoaded',()=>{
 const $=s=>document.querySelector(s),found=$('#found'),asked=$('#search');
 $('#theme').onclick=()=>{
  root.dataset.theme=root.dataset.theme=='dark'?'light':'dark';
  localStorage.setItem('theme',root.dataset.theme);
 };
 $('#menu').onclick=()=>$('nav').classList.toggle('open');
 const nav=$('nav'),here=$('nav a.here');
 if(here)nav.scrollTop=here.offsetTop-nav.clientHeight/2; // the page itself stays at its top
 const esc=t=>t.replace(/[&<>]/g,c=>({'&':'&amp;','<':'&lt;','>':'&gt;'}[c]));
 asked.oninput=()=>{
  const words=asked.value.toLowerCase().split(/\s+/).filter(Boolean);
  if(!words.length){found.hidden=true;return}
  const phrase=words.join(' '),hits=[];
  for(const [page,title,head,anchor,text] of SEARCH){
   const all=(title+' '+head+' '+text).toLowerCase();
   if(!words.every(w=>all.includes(w)))continue;
   let s=0;
   for(const w of words)s+=(title.toLowerCase().includes(w)?8:0)+(head.toLowerCase().includes(w)?5:0)+1;
   if(all.includes(phrase))s+=6;
   const at=Math.max(0,text.toLowerCase().indexOf(words[0])-50);
   hits.push([s,page+(anchor?'#'+anchor:''),title,head,text.slice(at,at+150)]);
  }
  hits.sort((a,b)=>b[0]-a[0]);
  const where=h=>h[3]==h[2]?'':' · '+esc(h[3]);
  const shown=h=>`<a href="${h[1]}"><b>${esc(h[2])}</b>${where(h)}<small>${esc(h[4])}</small></a>`;
  found.innerHTML=hits.slice(0,20).map(shown).join('')||'<a>nothing found</a>';
  found.hidden=false;
 };
 asked.onkeydown=e=>{if(e.key=='Escape'){asked.value='';found.hidden=true}
  if(e.key=='Enter'){const a=found.querySelector('a[href]');if(a)location.href=a.href}};
 const q=new URLSearchParams(location.search).get('q');if(q){asked.value=q;asked.oninput()}
 addEventListener('keydown',e=>{if(e.key=='/'&&document.activeElement!=asked){e.preventDefault();asked.focus()}});
});
